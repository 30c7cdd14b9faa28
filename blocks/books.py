"""Where orders are looked up, and where bookings and receipts go."""

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from standby.settings import home

SAMPLE_ORDERS = Path(__file__).resolve().parents[1] / "deployments" / "samples" / "purchase_orders.csv"


class Books(Block):
    """The books of the buying company: a database, a folder for receipts, and the accounts that every booking uses.

    The defaults are a SQLite database and a receipts folder in the data folder, and the sample orders.
    """

    _block_type_name = "Books"
    _block_type_slug = "books"
    _description = "Database of purchase orders and bookings, receipts folder and ledger accounts of the invoice agent."

    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{home() / 'books.db'}"),
        title="Database",
        description="SQLite or PostgreSQL, for example postgresql://user:password@host/books. Tables are created.",
    )
    orders_file: str | None = Field(
        default_factory=lambda: str(SAMPLE_ORDERS),
        title="Purchase order file",
        description="CSV that is read before each match; orders the database already has are left alone.",
    )
    receipts_folder: str = Field(
        default_factory=lambda: str(home() / "receipts"),
        title="Receipts folder",
        description="Where one JSON receipt per document is written. It is created.",
    )
    payables_account: str = Field(
        default="2440", title="Accounts payable", description="Ledger account of what is owed to suppliers."
    )
    vat_account: str = Field(default="2640", title="Input VAT", description="Ledger account of VAT to be reclaimed.")
    bank_account: str = Field(default="1930", title="Bank", description="Ledger account of the bank account paid from.")
