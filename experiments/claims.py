"""Tables of claims: what was measured, what becomes of each, and how many hold."""

from collections import Counter
from collections.abc import Mapping

from .blocks import NOWHERE, Cell, TableBlock
from .findings import CONFIRMED, MARGIN, OPEN, OPPOSITE, SECOND, UNCONFIRMED, Findings, adjusted_p
from .measured import COSTS
from .studies import STUDIES
from .study import Study
from .tables import shown_p

RULE = (
    "Each claim is tested on the test split. A claim that one is better is confirmed if three things agree: Wilcoxon's "
    "test over users (p < .05 after Holm's adjustment for all such claims of this table), the 95% interval of the mean "
    'difference over users and seeds, and the two means. The opposite holds if they agree on the reverse. "About as '
    'accurate", "at least as good" and "do not help" are confirmed if the interval, which is not adjusted, lies above '
    f"-{MARGIN:.0%} of the other's mean; the opposite holds if not, and it lies below 0. Of costs, all seeds have to "
    "agree. A claim that is not confirmed may still be true: with few seeds the intervals are wide. "
    f"{SECOND} stands beside and is not tested. Of errors (rmse) the two values are over all ratings, and the "
    "difference is between users' own errors."
)


def measured_studies(found: Mapping[str, Findings]) -> list[Study]:
    """Those with finished runs, in their order."""
    return [study for study in STUDIES if study.name in found and found[study.name].by_data]


def claims_table(found: Mapping[str, Findings], *, is_open: bool) -> TableBlock:
    """Each claim of the paper, or of what it leaves open, the numbers, and what becomes of it."""
    studies = [study for study in measured_studies(found) if study.is_open == is_open]
    tested = [(study, claim) for study in studies for claim in found[study.name].claims]
    adjusted = adjusted_p([claim for _, claim in tested])
    rows = []
    for (study, claim), p in zip(tested, adjusted, strict=True):
        number = ("{:+.4f}" if claim.since else "{:.4f}").format
        means, second = (
            "-" if values is None else " / ".join(map(shown, values))
            for values, shown in ((claim.values, COSTS.get(claim.metric, (None, number))[1]), (claim.second, number))
        )
        difference = "-" if claim.difference is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*claim.difference)
        verdict = claim.verdict(p)
        rows.append(
            [
                Cell(claim.text, claim.text),
                Cell(verdict, verdict),
                Cell(claim.data, claim.data),
                Cell(f"{claim.metric}: {means}", claim.values[0] if claim.values else NOWHERE),
                Cell(second, claim.second[0] if claim.second else NOWHERE),
                Cell(difference, claim.difference[0] if claim.difference else NOWHERE),
                Cell(shown_p(p), 2.0 if p is None else p),
                Cell(study.name, study.name, study.title),
            ]
        )
    return TableBlock(["claim", "verdict", "data", "measured", SECOND, "difference [95%]", "p (Holm)", "study"], rows)


def verdicts_table(claims: TableBlock) -> TableBlock:
    """How many claims of each study have which verdict."""
    shown = {CONFIRMED: CONFIRMED, UNCONFIRMED: UNCONFIRMED, OPPOSITE: "the opposite holds", OPEN: OPEN}
    told = [(row[-1], row[claims.headings.index("verdict")].text) for row in claims.rows]
    found = [verdict for verdict in shown if verdict != OPEN or any(own == OPEN for _, own in told)]
    rows = []
    for study in dict.fromkeys(study for study, _ in told):
        own = Counter(verdict for one, verdict in told if one == study)
        counts = [own.total(), *(own[verdict] for verdict in found)]
        rows.append([Cell(study.section, study.section, study.section), *(Cell(str(count), count) for count in counts)])
    return TableBlock(["study", "claims", *(shown[verdict] for verdict in found)], rows)


def summary(claims: TableBlock) -> str:
    """How many claims of a table have which verdict."""
    counts = Counter(row[claims.headings.index("verdict")].text for row in claims.rows)
    reverse = f" (of {counts[OPPOSITE]} the opposite holds)" if counts[OPPOSITE] else ""
    missing = f", {counts[OPEN]} are {OPEN}" if counts[OPEN] else ""
    refuted = counts[UNCONFIRMED] + counts[OPPOSITE]
    return f"Of {len(claims.rows)} claims {counts[CONFIRMED]} are {CONFIRMED}, {refuted} are not{reverse}{missing}."
