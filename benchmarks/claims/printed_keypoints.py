"""Level P, chapter H: what CenterNet's tables and sentences say of themselves."""

from __future__ import annotations

from decimal import Decimal

from benchmarks.claims.arithmetic import ROUNDING, fact, signed, steps
from benchmarks.claims.evidence import Evidence
from benchmarks.claims.ledger import Claim, Rule, Verdict

__all__ = ["RULES"]

_ONE, _DEV, _FD, _ABLATION, _TRUTH = (f"centernet_table{number}" for number in (1, 2, 3, 4, 5))
_MS, _VOC = "centernet_speed", "refinedet_table1"
_RATES = ("FD", "FD5", "FD25", "FD50", "FDS", "FDM", "FDL")
_SIZES = ("APS", "APM", "APL")
_NETS = ("52", "104")


def _rates(found: Evidence, table: str, method: str) -> tuple[Decimal, ...]:
    return tuple(found.printed(table, column, method=method) for column in _RATES)


def _order(net: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        rates = dict(zip(_RATES, _rates(found, _FD, f"CornerNet511-{net}"), strict=True))
        figure = f"FD5 {rates['FD5']}; FD_S {rates['FDS']}, FD_M {rates['FDM']}, FD_L {rates['FDL']}"
        return fact(rates["FDS"] > rates["FDM"] > rates["FDL"], figure, _FD)

    return Rule("corner-fd", "P", "FD_S over FD_M over FD_L", judge, f"CornerNet511-{net}")


def _falls(net: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        corner, center = (_rates(found, _FD, f"{name}511-{net}") for name in ("CornerNet", "CenterNet"))
        falls = dict(zip(_RATES, steps(corner, center), strict=True))
        figure = ", ".join(f"{name} {signed(-fall)}" for name, fall in falls.items())
        return fact(min(falls.values()) > 0 and falls["FDS"] == max(falls.values()), figure, _FD)

    return Rule("center-fd", "P", "all seven fall, FD_S most", judge, f"Hourglass-{net}")


def _ascribed(_: Claim, found: Evidence) -> Verdict:
    corner, center = (
        [found.printed(_FD, "FDS", method=f"{name}511-{net}") for net in _NETS] for name in ("CornerNet", "CenterNet")
    )
    figure = f"the text gives CenterNet {corner[0]} and {corner[1]}; its own are {center[0]} and {center[1]}"
    wrong = corner != center
    return Verdict("print error" if wrong else "holds", figure, rests_on=(_FD,))


def _fd5_falls(claim: Claim, found: Evidence) -> Verdict:
    said, falls = claim.number("fd5_fall"), []
    for net in _NETS:
        corner, center = (found.printed(_FD, "FD5", method=f"{name}511-{net}") for name in ("CornerNet", "CenterNet"))
        falls.append(corner - center)
    return fact(
        all(fall == said for fall in falls), f"{falls[0]} and {falls[1]}, the text says {said} for both", _FD,
        otherwise="print error",
    )  # fmt: skip


def _unnamed(_: Claim, found: Evidence) -> Verdict:
    here = _rates(found, _ONE, "CornerNet")
    same = [net for net in _NETS if _rates(found, _FD, f"CornerNet511-{net}") == here]
    figure = f"equals CornerNet511-{', '.join(same) or 'none'} in all seven cells; the ablation's base is the 52 net"
    return fact(bool(same), figure, _ONE, _FD, otherwise="print error")


def _complement(method: str, table: str, cells: dict[str, str]) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        fd, ap = found.printed(_FD, "FD50", method=method), found.printed(table, "AP50", **cells)
        return fact(abs(100 - fd - ap) <= ROUNDING, f"{fd} + {ap} = {fd + ap}", _FD, table, otherwise="print error")

    return Rule("fd-arithmetic", "P", "FD50 and AP50 of the same images sum to 100 within 0.1", judge, method)


def _ordered(_: Claim, found: Evidence) -> Verdict:
    rows = [found.table(_FD).cell(row, "method") for row in found.rows(_FD)]
    wrong = []
    for method in rows:
        rates = dict(zip(_RATES, _rates(found, _FD, method), strict=True))
        if not rates["FD5"] <= rates["FD25"] <= rates["FD50"] or not rates["FD5"] <= rates["FD"] <= rates["FD50"]:
            wrong.append(method)
    figure = f"{len(rows)} rows" + (f"; not in {', '.join(wrong)}" if wrong else "")
    return fact(not wrong, figure, _FD, otherwise="print error")


def _gains(found: Evidence, later: str, earlier: str, columns: tuple[str, ...]) -> dict[str, Decimal]:
    return {
        column: found.printed(_ABLATION, column, method=later) - found.printed(_ABLATION, column, method=earlier)
        for column in columns
    }


def _listed(gains: dict[str, Decimal]) -> str:
    return ", ".join(f"{name} {signed(gain)}" for name, gain in gains.items())


def _cre(_: Claim, found: Evidence) -> Verdict:
    gains = _gains(found, "with CRE", "CornerNet511-52", ("AP", *_SIZES))
    most = gains["APS"] > gains["APM"] > gains["APL"]
    return fact(gains["AP"] > 0 and most, _listed(gains), _ABLATION)


def _ctp(_: Claim, found: Evidence) -> Verdict:
    gains = _gains(found, "with CRE and CTP", "with CRE", ("AP", *_SIZES))
    figure = f"{_listed(gains)}: medium objects gain as much as large ones" if gains["APM"] == gains["APL"] else ""
    above = gains["APL"] > max(gains["APS"], gains["APM"])
    return fact(gains["AP"] > 0 and above, figure or _listed(gains), _ABLATION)


def _ctp_text(claim: Claim, found: Evidence) -> Verdict:
    alone = _gains(found, "with CRE and CTP", "with CRE", ("APL",))["APL"]
    both = _gains(found, "with CRE and CTP", "CornerNet511-52", ("APL",))["APL"]
    said = claim.number("large_gain")
    figure = f"pooling alone {signed(alone)}, with the check of the centre {signed(both)}; the text says {said}"
    return fact(alone == said, figure, _ABLATION, otherwise="print error")


def _ccp_alone(_: Claim, found: Evidence) -> Verdict:
    gains = _gains(found, "with CCP", "CornerNet511-52", ("AP", "APL", "ARS", "ARL"))
    figure = _listed(gains) + ("; AR_S falls, which the text leaves out" if gains["ARS"] < 0 else "")
    return fact(gains["APL"] == 0 and gains["ARL"] > 0, figure, _ABLATION)


def _ccp_with(_: Claim, found: Evidence) -> Verdict:
    gains = _gains(found, "CenterNet511-52", "with CRE and CTP", ("AP", "APL"))
    return fact(gains["APL"] > gains["AP"] > 0, _listed(gains), _ABLATION)


def _row_two(claim: Claim, found: Evidence) -> Verdict:
    said = tuple(claim.number(key) for key in ("from", "to"))
    row = tuple(found.printed(_ABLATION, "AP", method=name) for name in ("CornerNet511-52", "with CCP"))
    ticks = [found.table(_ABLATION).cell(found.row(_ABLATION, method="with CCP"), key) for key in ("CTP", "CCP")]
    figure = f"the text's {said[0]} to {said[1]} with cascade corner pooling are this row's: the tick belongs there"
    if row != said or ticks != ["0", "1"]:
        return Verdict("fails", f"row {row[0]} to {row[1]}, text {said[0]} to {said[1]}", rests_on=(_ABLATION,))
    return Verdict("print error", figure, rests_on=(_ABLATION,))


def _true_centres(net: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        gains = {
            column: found.printed(_TRUTH, column, method=f"CenterNet511-{net}", gt_centers="1")
            - found.printed(_TRUTH, column, method=f"CenterNet511-{net}", gt_centers="0")
            for column in ("AP", *_SIZES)
        }
        return fact(gains["AP"] > 10, _listed(gains), _TRUTH)

    return Rule("gt-centers", "P", "AP gains over 10 points", judge, f"room for improvement, Hourglass-{net}")


def _no_bottleneck(_: Claim, found: Evidence) -> Verdict:
    gains = [
        found.printed(_TRUTH, "AP", method=f"CenterNet511-{net}", gt_centers="1")
        - found.printed(_TRUTH, "AP", method=f"CenterNet511-{net}", gt_centers="0")
        for net in _NETS
    ]
    figure = f"{signed(gains[0])} and {signed(gains[1])}: the closing sentence contradicts the table's caption"
    return fact(max(gains) < 5, figure, _TRUTH)


def _recall(net: str) -> Rule:
    def judge(_: Claim, found: Evidence) -> Verdict:
        corner, center = (
            found.printed(_DEV, "AR100", method=f"{name}511", backbone=f"Hourglass-{net}", test_scales="single")
            for name in ("CornerNet", "CenterNet")
        )
        return fact(center > corner, f"AR100 {corner} to {center} ({signed(center - corner)})", _DEV)

    return Rule("ar-improves", "P", "AR100 of CenterNet is higher, one scale", judge, f"Hourglass-{net}")


def _many_scales(_: Claim, found: Evidence) -> Verdict:
    worse = []
    for net in _NETS:
        for column in ("AR1", "AR10", "AR100", "ARS", "ARM", "ARL"):
            one, many = (
                found.printed(_DEV, column, method="CenterNet511", backbone=f"Hourglass-{net}", test_scales=scales)
                for scales in ("single", "multi")
            )
            if many <= one:
                worse.append(f"{column} of Hourglass-{net} {one} to {many}")
    return fact(not worse, "; ".join(worse) or "higher in all columns", _DEV)


def _cost(_: Claim, found: Evidence) -> Verdict:
    ms = [found.printed(_MS, "ms_per_image", method=f"{name}511-104") for name in ("CornerNet", "CenterNet")]
    share = 100 * (ms[1] / ms[0] - 1)
    return fact(share < 25, f"{ms[0]} to {ms[1]} ms: {share:+.0f} %", _MS)


def _faster_inference(_: Claim, found: Evidence) -> Verdict:
    ms = [found.printed(_MS, "ms_per_image", method=f"{name}511-104") for name in ("CornerNet", "CenterNet")]
    slowest = min(
        found.printed(_VOC, "FPS", method="Faster R-CNN", backbone="VGG-16"), found.printed(_VOC, "FPS", method="R-FCN")
    )
    figure = f"{ms[1]} ms is slower than CornerNet's {ms[0]}, and {1000 / ms[1]:.1f} frames a second are fewer than "
    return fact(ms[1] < ms[0], f"{figure}the {slowest} that RefineDet lists for two-stage detectors", _MS, _VOC)


RULES: tuple[Rule, ...] = (
    *(_order(net) for net in _NETS),
    *(_falls(net) for net in _NETS),
    Rule("center-fd", "P", "the figures that the text gives CenterNet are its own", _ascribed, "62.5 and 60.3"),
    Rule("fd-arithmetic", "P", "FD5 falls as the text says", _fd5_falls, "FD5 falls by 4.5"),
    Rule("fd-arithmetic", "P", "Table 1's row is one of Table 3", _unnamed, "Table 1"),
    _complement("CornerNet511-52", _ABLATION, {"method": "CornerNet511-52"}),
    _complement("CenterNet511-52", _ABLATION, {"method": "CenterNet511-52"}),
    _complement("CenterNet511-104", _TRUTH, {"method": "CenterNet511-104", "gt_centers": "0"}),
    Rule("fd-arithmetic", "P", "FD5 <= FD25 <= FD50, and FD lies between", _ordered, "order"),
    Rule("cre-gain", "P", "AP gains, S most and L least", _cre),
    Rule("ctp-large", "P", "AP gains, large objects more than the others", _ctp),
    Rule("ctp-large", "P", "the gain of the text is that of the row before", _ctp_text, "the text's 1.4"),
    Rule("ccp-interaction", "P", "AP_L stays and AR_L rises", _ccp_alone, "alone"),
    Rule("ccp-interaction", "P", "AP_L gains, and more than AP", _ccp_with, "with the check"),
    Rule("t4-row2", "P", "the text's figures say which part the row has", _row_two),
    *(_true_centres(net) for net in _NETS),
    Rule("gt-centers", "P", "true centres bring less than 5 points", _no_bottleneck, "no bottleneck"),
    *(_recall(net) for net in _NETS),
    Rule("ar-improves", "P", "every AR of CenterNet is higher with several scales", _many_scales, "most with several"),
    Rule("center-cost", "P", "less than a quarter more time", _cost),
    Rule("center-cost", "P", "fewer milliseconds than its base", _faster_inference, "faster inference"),
)
