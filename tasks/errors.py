"""What can go wrong between an invoice file and a booked payment, and in the tools of an agent, drawn once.

    InvoiceError (ValueError)              one document, and one place in it; a person has to look at it
    ├── UnreadableInvoice                  the file is absent, not a file, or not allowed to be read
    ├── TooLarge                           the file, its tree or one of its values is beyond a stated limit
    ├── MalformedXml                       not well-formed XML
    ├── ForbiddenXml                       a document type, an entity or an external reference
    ├── NotUbl                             XML, but neither a UBL 2.1 Invoice nor a CreditNote
    ├── MissingField                       something required is absent or empty
    ├── DuplicateElement                   something that may stand once stands more often
    ├── InvalidField                       a value outside its format or range
    │   ├── InvalidAmount                  the same, of an amount, a quantity or a percentage
    │   └── UnknownCurrency                a code that ISO 4217 does not have
    ├── CurrencyMismatch                   an amount in another currency than the document's
    ├── ArithmeticMismatch                 a stated amount is not what the rules of EN 16931 compute
    └── DuplicateInvoice                   this supplier's invoice with this number is already registered
    BooksError (RuntimeError)              the books (orders, bookings, receipts) cannot be used
    ├── BadOrderFile (ValueError)          a row of the purchase order file cannot be read
    └── BookingRefused (ValueError)        what should be booked contradicts itself or an earlier booking
    PaymentError (RuntimeError)            the payment provider, always with the address that was asked
    ├── ProviderUnreachable (ConnectionError)   no connection: nothing was ordered
    ├── ProviderTimeout (TimeoutError)     no answer in time: the payment may have been ordered
    ├── ProviderFailed                     a 5xx or an answer that makes no sense: it may have been ordered
    ├── PaymentRefused (ValueError)        the provider, or this side, said no: nothing was ordered
    └── PaymentConflict                    the same idempotency key was used with another order before
    ToolError (RuntimeError)               a tool of an agent did not do what it was asked
    ├── ToolRefused (ValueError)           it may not do that: nothing was done, and asking again will not help
    └── ToolFailed                         the other side failed, or took too long

Every message is one sentence of what and where, then one of what to do. Arguments are kept as they were given, so
errors survive pickling.
"""

from decimal import Decimal
from typing import ClassVar

LONGEST_SHOWN = 200
"""Characters of what a tool was asked for that its errors repeat."""


class InvoiceError(ValueError):
    """One document cannot be processed.

    Attributes: ``file`` is the document's file name, ``field`` the place in it (UBL element names joined by ``/``, or
    ``document`` for the whole), ``reason`` what is wrong there, ``remedy`` what to do about it.
    """

    default_remedy: ClassVar[str] = "Ask the supplier for a corrected document."

    def __init__(self, file: str, field: str, reason: str, remedy: str = "") -> None:
        super().__init__(file, field, reason, remedy)
        self.file, self.field, self.reason = file, field, reason
        self.remedy = remedy or self.default_remedy

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.reason}. {self.remedy}"


class UnreadableInvoice(InvoiceError):
    default_remedy = "Check the path and the permissions, then start the run again."


class TooLarge(InvoiceError):
    default_remedy = "Ask the supplier to send attachments apart, or to split the document."


class MalformedXml(InvoiceError):
    default_remedy = "Ask the supplier to send the file again; it may have been cut off on its way."


class ForbiddenXml(InvoiceError):
    default_remedy = "A UBL document needs none of this: treat the file as an attack and ask who sent it."


class NotUbl(InvoiceError):
    default_remedy = "Send UBL 2.1 Invoice or CreditNote documents (Peppol BIS Billing 3.0) here, and others elsewhere."


class MissingField(InvoiceError):
    pass


class DuplicateElement(InvoiceError):
    pass


class InvalidField(InvoiceError):
    pass


class InvalidAmount(InvalidField):
    pass


class UnknownCurrency(InvalidField):
    pass


class CurrencyMismatch(InvoiceError):
    pass


class ArithmeticMismatch(InvoiceError):
    """A stated amount contradicts the others.

    Attributes: those of `InvoiceError`, ``stated`` and ``computed`` amounts in the document's currency, and ``rule``,
    the name of the broken rule, for example ``BR-CO-16``.
    """

    def __init__(self, file: str, field: str, stated: Decimal, computed: Decimal, rule: str) -> None:
        reason = f"it states {stated:f}, but {computed:f} follows from the other amounts ({rule})"
        super().__init__(file, field, reason)
        self.args = (file, field, stated, computed, rule)
        self.stated, self.computed, self.rule = stated, computed, rule


class DuplicateInvoice(InvoiceError):
    """Attributes: those of `InvoiceError`, and ``earlier_file`` and ``earlier_run`` of the first registration."""

    def __init__(self, file: str, number: str, supplier: str, earlier_file: str, earlier_run: str) -> None:
        reason = f"{number!r} of {supplier} was already registered from {earlier_file} by run {earlier_run}"
        super().__init__(file, "cbc:ID", reason, "Look at that run; nothing was paid or booked for this file.")
        self.args = (file, number, supplier, earlier_file, earlier_run)
        self.earlier_file, self.earlier_run = earlier_file, earlier_run


class BooksError(RuntimeError):
    pass


class BadOrderFile(BooksError, ValueError):
    def __init__(self, file: str, line: int, column: str, reason: str) -> None:
        super().__init__(f"{file}, line {line}, column {column}: {reason}. Correct the row; no order was read.")
        self.args = (file, line, column, reason)
        self.message = f"{file}, line {line}, column {column}: {reason}. Correct the row; no order was read."

    def __str__(self) -> str:
        return self.message


class BookingRefused(BooksError, ValueError):
    pass


class PaymentError(RuntimeError):
    """The payment provider did not do what it was asked.

    Attributes: ``url`` is the address that was asked, ``reason`` what happened, ``remedy`` what to do.
    ``maybe_ordered`` is true when the payment may exist although no answer says so: look before ordering again.
    """

    maybe_ordered: ClassVar[bool] = False
    default_remedy: ClassVar[str] = "Nothing was ordered."

    def __init__(self, url: str, reason: str, remedy: str = "") -> None:
        super().__init__(url, reason, remedy)
        self.args = (url, reason, remedy)  # OSError, in some of the subclasses, would keep only two of them
        self.url, self.reason, self.remedy = url, reason, remedy or self.default_remedy

    def __str__(self) -> str:
        return f"Payment provider at {self.url}: {self.reason}. {self.remedy}"


class ProviderUnreachable(PaymentError, ConnectionError):
    default_remedy = "Nothing was ordered. Start the provider or correct base_url in the block payment-provider."


class ProviderTimeout(PaymentError, TimeoutError):
    maybe_ordered = True
    default_remedy = (
        "The payment may have been ordered: retry the run, which looks for it first, or raise timeout_seconds."
    )


class ProviderFailed(PaymentError):
    maybe_ordered = True
    default_remedy = "The payment may have been ordered: retry the run, which looks for it first."


class PaymentRefused(PaymentError, ValueError):
    default_remedy = "Nothing was ordered. Correct what it names and start a new run."


class PaymentConflict(PaymentError):
    default_remedy = (
        "Nothing new was ordered. Compare the earlier payment with this invoice before doing anything else."
    )


class ToolError(RuntimeError):
    """A tool did not do what it was asked.

    Attributes: ``what`` it was asked for, ``reason`` and ``remedy``, which the model reads too.
    """

    def __init__(self, what: str, reason: str, remedy: str = "") -> None:
        super().__init__(what, reason, remedy)
        self.what, self.reason, self.remedy = what, reason, remedy

    def __str__(self) -> str:
        what = " ".join(self.what.split())
        what = what if len(what) <= LONGEST_SHOWN else f"{what[: LONGEST_SHOWN - 1]}…"
        return f"{what}: {self.reason}. {self.remedy}".rstrip()


class ToolRefused(ToolError, ValueError):
    pass


class ToolFailed(ToolError):
    pass
