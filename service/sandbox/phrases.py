"""The vocabulary of a generated period: questions of lawyers, names of reports."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

SLOTS: Final[dict[str, Sequence[str]]] = {
    "party": (
        "the landlord",
        "the tenant",
        "the guarantor",
        "the freeholder",
        "the managing agent",
        "a subtenant",
        "the mortgagee",
        "an assignee",
        "the superior landlord",
    ),
    "place": (
        "Flat 4, Harbour Court",
        "the ground floor unit",
        "Unit 12 Kestrel Park",
        "the rear car park",
        "27 Alder Row",
        "the basement store",
        "the shared garden",
        "the third floor offices",
        "Plot 9",
        "the roof terrace",
    ),
    "act": (
        "assign the lease",
        "sublet a single room",
        "keep a dog",
        "put up a sign",
        "install solar panels",
        "change the locks",
        "remove a partition wall",
        "share occupation with a group company",
        "run a business from home",
        "replace the windows",
        "lay wooden flooring",
    ),
    "duty": (
        "repair",
        "insurance",
        "decoration",
        "quiet enjoyment",
        "service charge",
        "ground rent",
        "yielding up",
        "access for inspection",
        "fire safety",
        "party walls",
    ),
    "clause": tuple(f"clause {n}.{m}" for n in range(1, 25) for m in range(1, 10)),
    "date": tuple(
        f"{day} {month} {year}"
        for year in range(2025, 2032)
        for month in ("January", "March", "June", "September", "December")
        for day in (1, 14, 25)
    ),
    "sum": tuple(f"£{hundreds * 125:,}" for hundreds in range(2, 400)),
    "months": tuple(f"{count} months" for count in range(2, 37)),
}
"""The values of each `{slot}` of a question."""


class QuestionTemplate(NamedTuple):
    """A `%`-format, and the values for each of its places."""

    template: str
    slots: tuple[Sequence[str], ...]


def _question(text: str) -> QuestionTemplate:
    names = re.findall(r"\{(\w+)\}", text)
    template = re.sub(r"\{\w+\}", "%s", text)
    return QuestionTemplate(template, tuple(SLOTS[name] for name in names))


QUESTIONS: Final = tuple(
    _question(text)
    for text in (
        "Who pays for {duty} under {clause}?",
        "May {party} {act} without consent?",
        "Does {clause} let {party} {act}?",
        "Is {party} liable for {duty} at {place}?",
        "When does the lease of {place} end?",
        "What notice must {party} give before {date}?",
        "Summarise what {clause} says about {duty}.",
        "Is there a break option at {place}, and can {party} use it by {date}?",
        "How much is the rent of {place} after the review on {date}?",
        "Can the deposit of {sum} be kept if {party} wants to {act}?",
        "List every deadline between now and {date} that binds {party}.",
        "Compare {clause} with {clause} where {duty} is concerned.",
        "What happens if {party} is {months} late with the rent?",
        "Draft a short letter telling {party} that arrears of {sum} are due.",
        "Does the cap of {sum} on {duty} still apply after {months}?",
        "Which covenants bind {party} at {place}?",
        "Is the right of way over {place} registered?",
        "Has {party} waived {clause} by accepting rent on {date}?",
        "Explain forfeiture to {party} in plain words.",
        "Are there restrictions on plans to {act} at {place}?",
        "Does {clause} survive the end of the term?",
        "What is the longstop date if completion slips by {months}?",
        "Find any clause that conflicts with {clause}.",
        "Would stamp duty on {sum} change if {place} were left out?",
        "How is {duty} shared between {party} and the others at {place}?",
    )
)

ONE_WORD: Final = ("Rent?", "Forfeiture", "Easements", "help", "Thanks!", "Why?", "OK")
PALINDROMES: Final = (
    "Level",
    "Noon?",
    "Civic",
    "No lemon, no melon.",
    "Step on no pets!",
    "Was it a rat I saw?",
    "Never odd or even",
)
OTHER_LANGUAGES: Final = (
    "Qui doit payer les travaux de façade, le bailleur ou le locataire ?",
    "Wie lange ist die Kündigungsfrist für die Geschäftsräume?",
    "¿Puede el arrendatario ceder el contrato sin permiso?",
    "Beth yw'r rhent blynyddol am y tŷ?",
    "Czy najemca może założyć działalność w lokalu?",
    "租约什么时候到期",
    "Ποιος πληρώνει τα κοινόχρηστα;",
    "Сколько составляет залог?",
    "هل يجوز للمستأجر التأجير من الباطن؟",
    "What does “jouissance à titre précaire” mean in Zoë’s lease?",
)
EMOJI: Final = (
    "Is the deposit protected? 🏠",
    "Rent review done 👍🏽 what is next?",
    "🔑 handover date?",
    "Any news on the 👩‍⚖️ hearing about the boundary?",
)
ODDITIES: Final = (ONE_WORD, PALINDROMES, OTHER_LANGUAGES, EMOJI)

REPORT_SCOPES: Final = (
    "Short",
    "",
    "Full",
    "Annual",
    "Draft",
    "Comparative",
    "Executive",
    "Interim",
)
REPORT_SUBJECTS: Final = (
    "Lease",
    "Tenant Obligations",
    "Landlord Covenants",
    "Rent Review",
    "Break Option",
    "Service Charge",
    "Dilapidations",
    "Title and Easements",
    "Insurance",
    "Alterations",
    "Planning Conditions",
)


def name_report(number: int) -> str:
    """Return the name of report `number`; names repeat after all are used."""
    scope = REPORT_SCOPES[number % len(REPORT_SCOPES)]
    subject = REPORT_SUBJECTS[number % len(REPORT_SUBJECTS)]
    return f"{scope} {subject} Report".lstrip()
