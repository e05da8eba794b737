"""The LaTeX table of a comparison: by LaTeX itself where there is one, and by a small parser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.sweep.tables.latex import escaped, latex_table
from ccsi.sweep.tables.rows import HEADINGS, Row
from ccsi.sweep.tables.statistics import Difference

COMMANDS = {"toprule", "midrule", "bottomrule", "begin", "end", "mathbf", "mathrm", "underline", "pm"}
COMMANDS |= {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"}
COMMANDS |= {"lbrack", "textasteriskcentered"}


def row(name: str, kind: str = "inversion", status: str = "done", permissions: str = "", **means: float) -> Row:
    made: Row = {"learner": name, "kind": kind, "status": status, "permissions": permissions}
    for figure, value in (dict.fromkeys(HEADINGS, 0.5) | means).items() if status == "done" else ():
        made |= {f"{figure}_mean": value, f"{figure}_std": 0.0123}
    return made


def table(rows: list[Row], differences: dict[str, Difference] | None = None, *notes: str, **kept: str) -> str:
    all_kept = {one["learner"]: "0" for one in rows} | kept
    return latex_table(rows, "learner", all_kept, differences or {}, notes)


def parsed(latex: str) -> list[list[str]]:
    """The cells of each line of the table; an AssertionError for what LaTeX would refuse or print as something else."""
    lines = [line for line in latex.splitlines() if not line.startswith("%")]
    (columns,) = re.findall(r"^\\begin\{tabular\}\{([lr]+)\}$", lines[0])
    assert lines[-1] == r"\end{tabular}" and lines[1] == r"\toprule" and lines[-2] == r"\bottomrule"
    rows = []
    for line in lines[2:-2]:
        if line == r"\midrule":
            continue
        assert line.endswith(r" \\")
        cells = re.split(r" ?(?<!\\)& ?", line.removesuffix(r" \\"))
        assert len(cells) == len(columns)
        for cell in cells:
            assert set(re.findall(r"\\([a-zA-Z]+)", cell)) <= COMMANDS, cell
            bare = re.sub(r"\\[a-zA-Z]+|\\[&%$#_{} ]", "", cell)
            assert bare.count("$") % 2 == 0 and bare.count("{") == bare.count("}"), cell
            outside = re.sub(r"\$[^$]*\$|\{\}", "", bare)
            assert not re.search(r"[&%#_^~\\{}<>|]", outside), cell
        rows.append(cells)
    return rows


def test_by_hand() -> None:
    rows = [
        row("joint", "bound", permissions="all tasks", macro_over_tasks=0.99, forgetting=0.0),
        row("ccsi", macro_over_tasks=0.8211, forgetting=0.2, micro=0.7),
        row("deep_inversion", macro_over_tasks=0.7, forgetting=-0.012, micro=0.7),
        row("lwf", "regularisation", macro_over_tasks=0.7004, forgetting=0.1, micro=0.3),
        row("ewc", "", "failed"),
    ]
    rows[1]["is_best"] = True
    differences = {
        "deep_inversion": Difference(-0.1211, -0.2, -0.042, 0.0123),
        "lwf": Difference(0.03, -0.01, 0.07, 1.0),
        "ccsi": Difference(0.0),
    }
    text = table(rows, differences, "Two lines\nof 100 % of a note", joint="all tasks", ewc="failed")
    assert text.startswith("% Two lines of 100 % of a note\n")
    assert r"\usepackage{booktabs}" in text and text.count(r"\midrule") == 4  # below the head, between kinds
    head, joint, ccsi, inversion, lwf, ewc = parsed(text)
    assert head == ["learner", "kept", *HEADINGS.values(), r"vs.\ best, adjusted interval and $p$"] and len(head) == 8
    assert joint[:3] == ["joint", "all tasks", r"$99.0 \pm 1.2$"] and joint[-1] == ""  # above all, and out of the race
    assert ccsi[2] == r"$\mathbf{82.1} \pm 1.2$" and ccsi[-1] == "best"
    assert inversion[0] == r"deep\_inversion"
    assert inversion[2] == lwf[2] == r"$\underline{70.0} \pm 1.2$"  # equal as printed
    assert inversion[4] == ccsi[4] == r"$\mathbf{70.0} \pm 1.2$" and lwf[4] == r"$\underline{30.0} \pm 1.2$"
    assert [line[-2] for line in (joint, ccsi, inversion, lwf)] == [
        r"$0.0 \pm 1.2$",
        r"$20.0 \pm 1.2$",
        r"$\mathbf{-1.2} \pm 1.2$",
        r"$\underline{10.0} \pm 1.2$",
    ]
    assert inversion[-1] == r"$-12.1$ [$-20.0$, $-4.2$], $p_{\mathrm{adj}} = 0.012$"
    assert lwf[-1] == r"$+3.0$ [$-1.0$, $+7.0$], $p_{\mathrm{adj}} = 1.000$"
    assert ewc == ["ewc", "failed", "", "", "", "", "", ""]
    very = table(rows, {"lwf": Difference(-0.5, -0.6, -0.4, 1e-5)})
    assert r"$p_{\mathrm{adj}} < 0.001$" in very
    few = parsed(table(rows, {"lwf": Difference(-0.5, reason="fewer than three seeds")}))
    assert (few[0][-1], few[-2][-1]) == (r"vs.\ best", "$-50.0$")  # nothing is adjusted
    assert parsed(table([row("ewc", "", "failed")])) == [["learner", "kept"], ["ewc", "0"]]


def test_one_seed_and_one_candidate() -> None:
    one = row("ccsi")
    one |= {f"{figure}_std": float("nan") for figure in HEADINGS}
    assert parsed(table([one]))[1] == ["ccsi", "0", *["$50.0$"] * len(HEADINGS), ""]


@given(st.text(min_size=1), st.text())
def test_no_text_of_the_users_is_a_command(name: str, note: str) -> None:
    assert "\n" not in escaped(name) and "\r" not in escaped(name)
    rows = [row(name), row("b", macro_over_tasks=0.6)]
    text = table(rows, {name: Difference(-0.1, -0.2, 0.0, 0.2)}, note, **{"b": name})
    assert len(parsed(text)) == 3


def has_booktabs() -> bool:
    """Whether a LaTeX is here, with the package that the table needs: Debian has it in texlive-latex-recommended."""
    if not shutil.which("pdflatex") or not shutil.which("kpsewhich"):
        return False
    return subprocess.run(["kpsewhich", "booktabs.sty"], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(not has_booktabs(), reason="needs pdflatex and booktabs, 300 MB that CI does not install")
def test_latex_compiles_it(tmp_path: Path) -> None:
    rows = [row(r"a_b&c%d$e#f{g}~h^i\j<k>|"), row("[2, 3]"), row("*"), row("b", "bound", macro_over_tasks=0.6)]
    body = table(rows, {"b": Difference(-0.1, -0.2, 0.0, 0.2)}, "50 % of it")
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
