"""A question's samples as a Markdown table."""

import statistics

from measure import comparable

HEAD = (
    "",
    "median",
    "min .. max",
    "p50 us",
    "p99 us",
    "samples",
    "probe p50 us",
    "onhand / this",
    "min .. max",
    "rounds",  # that are in the ratio, of those that have both samples
)


def spelt(value):
    """Digits as exact as a sample is."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figures(samples, name):
    return [sample["figures"][name] for sample in samples]


def ratio(question, ours, theirs, figure):
    """onhand's figure by the other's, round by round, of rounds in which both samples can be compared."""
    pairs = [(one, other) for one in ours for other in theirs if one["round"] == other["round"]]
    ratios = [
        one["figures"][question.figure] / other["figures"][figure]
        for one, other in pairs
        if comparable(one, other)
    ]
    rounds = f"{len(ratios)} of {len(pairs)}"
    if not ratios:
        return "", "", rounds
    return f"{statistics.median(ratios):.2f}x", f"{min(ratios):.2f} .. {max(ratios):.2f}", rounds


def row(question, label, samples, figure):
    """What stands before the ratio."""
    if not samples:
        return label, "no sample", "", "", "", "0", ""
    values = figures(samples, figure)
    times = ["", ""]
    if figure == question.figure and "p50_us" in samples[0]["figures"]:
        times = [spelt(statistics.median(figures(samples, name))) for name in ("p50_us", "p99_us")]
    probe = statistics.median(time for sample in samples for time in sample["probe_us"])
    spread = f"{spelt(min(values))} .. {spelt(max(values))}"
    return label, spelt(statistics.median(values)), spread, *times, str(len(samples)), spelt(probe)


def table(question, samples):
    def of(contestant):
        names = question.name, contestant.label
        return [sample for sample in samples if (sample["question"], sample["contestant"]) == names]

    us, *others = question.contestants
    ours = of(us)
    rows = [HEAD, (*row(question, us.label, ours, question.figure), "", "", "")]
    for line in question.lines:
        compared = ratio(question, ours, ours, line.figure) if line.compared else ("", "", "")
        rows.append((*row(question, line.label, ours, line.figure), *compared))
    for other in others:
        compared = ratio(question, ours, of(other), question.figure)
        rows.append((*row(question, other.label, of(other), question.figure), *compared))
    # A column that says nothing of this question is left out.
    columns = [column for column in zip(*rows) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
        for cells in zip(*columns)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([question.title, "", *lines])
