"""The site: built without a warning, every link leads somewhere, every picture is told in words; and looked at in a browser where there is one."""

import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    "The pages, built as `make docs` does."
    folder = tmp_path_factory.mktemp("site")
    for command in ([sys.executable, root/"docs"/"pages.py", folder/"source"],
                    [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", folder/"source", folder/"html"]):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=root)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder/"html"


@pytest.fixture(scope="module")
def pages(site):
    return {p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(), "html.parser") for p in site.rglob("*.html")
            if "_static" not in p.relative_to(site).parts}


def test_every_notebook_has_its_page(root, pages):
    notebooks = {p.relative_to(root).with_suffix(".html").as_posix() for p in (root/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert not notebooks - {*pages} - {"nbs/index.html"} and len(notebooks) > 70


def test_every_page_is_in_the_side_bar(pages):
    listed = {a["href"].split("#")[0] for a in pages["index.html"].select("nav a[href], .sidebar-primary-item a[href]")}
    for section in ("nbs/methods/52_cot.html", "nbs/verify/27_verifier.html", "nbs/experiments/report.html", "api.html", "start.html"):
        assert section in listed


def test_every_internal_link_leads_somewhere(site, pages):
    ids, broken = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in pages.items()}, []
    for name, soup in pages.items():
        for tag in soup.select("a[href], link[href], script[src], img[src]"):
            address = tag.get("href") or tag["src"]
            href, anchor = urldefrag(address)
            if re.match(r"[a-z]+:", href): continue
            target = (site/name).parent/unquote(href.split("?")[0]) if href else site/name
            place = target.resolve().relative_to(site.resolve()).as_posix()
            if not target.is_file() or (anchor and place in ids and unquote(anchor) not in ids[place]): broken.append((name, address))
    assert broken == []


def test_no_page_asks_another_host(pages):
    assert [(name, tag) for name, soup in pages.items() for tag in soup.select("script[src], img[src], link[rel=stylesheet]")
            if re.match("https?:|//", tag.get("src") or tag["href"])] == []


def test_every_equation_has_a_number(pages):
    equations = {name: (soup.select("article div.math"), soup.select("article div.math span.eqno")) for name, soup in pages.items()}
    assert sum(len(displayed) for displayed, _ in equations.values()) > 15
    assert [name for name, (displayed, numbers) in equations.items() if len(displayed) != len(numbers)] == []
    assert [n.text[:3] for n in equations["nbs/methods/53_step_by_step.html"][1]] == ["(1)", "(2)", "(3)"]


def test_every_picture_is_told_in_words(pages):
    pictures = [(name, image) for name, soup in pages.items() for image in soup.select("img")]
    assert len(pictures) > 25
    assert [(name, image["src"]) for name, image in pictures if len(image.get("alt", "").split()) < 2 or "_images/" in image.get("alt", "")] == []


def test_headings_are_in_order(pages):
    def jumps(soup):
        levels = [int(h.name[1]) for h in soup.select("article h1, article h2, article h3, article h4")]
        return levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert [name for name, soup in pages.items() if soup.select("article") and name not in ("search.html", "genindex.html") and jumps(soup)] == []


def rows(table): return [[cell.text.replace("\N{NO-BREAK SPACE}", " ").strip() for cell in row.find_all(["td", "th"])] for row in table.select("tr")]


def test_experiments_show_what_is_committed(root, pages):
    header, _, *lines = (root/"paper"/"tables"/"feedback.md").read_text().split("\n\n")[0].splitlines()
    expected = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in (header, *lines)]
    assert expected in [rows(table) for table in pages["nbs/experiments/feedback.html"].select("article table")]


def test_every_table_and_plot_belongs_to_an_experiment(root, pages):
    sys.path.insert(0, str(root/"docs"))
    from pages import ALT, RESULTS
    named = [name for cells in RESULTS.values() for names in cells.values() for name in names]
    assert sorted(named) == sorted([p.stem for p in (root/"paper"/"tables").glob("*.md")] + [p.name for p in (root/"figures").glob("*.svg")])
    assert {name.removesuffix(".svg") for name in named if name.endswith(".svg")} == {*ALT}
    for experiment, cells in RESULTS.items():
        page, names = pages[f"nbs/experiments/{experiment}.html"], [name for found in cells.values() for name in found]
        plots = [image["src"].rpartition("/")[2] for image in page.select("article figure img")]
        assert plots == [name for name in names if name.endswith(".svg")]
        assert len(page.select("article table")) >= len(names) - len(plots)


def test_notebooks_to_learn_from_say_how_long_they_take(root, pages):
    seconds = json.loads((root/"paper"/"results"/"notebook_times.json").read_text())["seconds"]
    wanted = [p.relative_to(root).with_suffix("").as_posix() for part in ("methods", "verify") for p in (root/"nbs"/part).glob("*.ipynb")]
    assert {*wanted, *(f"nbs/course/{t}" for t in ("bachelor", "master", "phd"))} <= {*seconds}
    for name, took in seconds.items(): assert f"Runs in {took:.0f} s on one core" in pages[f"{name}.html"].text
    said = {"bachelor": "two minutes", "master": "three minutes", "phd": "four minutes"}
    for i, track in enumerate(said, start=2): assert seconds[f"nbs/course/{track}"] < 60*i and said[track] in pages[f"nbs/course/{track}.html"].text


def test_experiments_say_how_they_are_run(root, pages):
    commands = {"report": "make report PRESET=full", "paper": "make paper"}
    for name in [p.stem for p in (root/"nbs"/"experiments").glob("*.ipynb")]:
        command = commands.get(name, f"reasoning-distill notebook nbs/experiments/{name}.ipynb out.ipynb")
        assert command in pages[f"nbs/experiments/{name}.html"].text


def test_nothing_of_the_notebooks_machinery_is_shown(pages):
    assert [name for name, soup in pages.items() if re.search(r"#\| ?(export|hide|default_exp)", soup.text) and name.startswith("nbs/")] == []


def test_a_reference_says_what_parameters_mean(pages):
    table = pages["api/stats.html"].find(id="wilson").find("table").text
    assert "how many of the trials came out right" in table and "lower and upper bound" in table
    losses, notebook = pages["api/models.losses.html"], pages["nbs/models/31_losses.html"]
    assert "reverse_kl(teacher, student, temperature=1.0)" in losses.find(id="reverse-kl").text
    assert losses.select('article a[href$="31_losses.html"]') and notebook.select('article a[href$="api/models.losses.html"]')


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("width, scheme", [(1300, "light"), (1300, "dark"), (390, "light"), (390, "dark")])
def test_a_browser_reads_it(site, width, scheme):
    from playwright.sync_api import sync_playwright
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, errors = f"http://127.0.0.1:{server.server_port}", []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme).new_page()
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("request", lambda asked: errors.append(asked.url) if not asked.url.startswith((here, "data:")) else None)
        page.goto(f"{here}/index.html")
        assert page.locator("article h1").inner_text().startswith("reasoning_distill")
        assert page.locator("article img").first.bounding_box()["width"] > 250
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out of the page"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) < 150")
        assert dark == (scheme == "dark")
        if width < 500:
            page.locator("button.primary-toggle").first.click()
            page.wait_for_timeout(500)
        page.locator(".sidebar-primary-item a", has_text="on-policy distillation").first.click()
        page.wait_for_selector("article mjx-container", timeout=20_000)
        assert "58_on_policy" in page.url and page.locator("article mjx-container").count() > 3, "equations are typeset"
        page.goto(f"{here}/search.html?q=reverse+KL")
        page.wait_for_selector("#search-results li a", timeout=20_000)
        assert page.locator("#search-results li").count() > 2
        said = [*errors]  # what axe asks for itself is no error of the page
        # The dark scheme differs in its colours alone.
        read = READ if (width, scheme) == (1300, "light") else READ[-3:] if scheme == "dark" and width == 1300 else ()
        objections = [found for name in read for found in accessibility(page, f"{here}/{name}")]
        browser.close()
    server.shutdown()
    assert said == [] and objections == []


READ = ("start.html", "nbs/methods/52_cot.html", "nbs/experiments/report.html", "nbs/glossary.html", "api/stats.html", "index.html",
        "nbs/course/bachelor.html", "search.html?q=reverse+KL")


def accessibility(page, address):
    "What axe finds that keeps anybody from reading: names for all controls, alternative texts, contrast, headings in order."
    from axe_playwright_python.sync_playwright import Axe
    page.goto(address)
    page.wait_for_load_state("networkidle")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}).response["violations"]
    return [(address.rpartition("/")[2], v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
