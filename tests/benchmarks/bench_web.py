# ruff: noqa: T201
"""How large the web page of many cells is, how much memory writing it takes, and how long colouring takes in Chromium.

    python tests/benchmarks/bench_web.py --cells 1000000

Times of drawing are those of a software renderer where the machine has no graphics card.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.export import write_web
from mxsplicer.images.lazy_images import Windowed
from mxsplicer.images.slide import Slide

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from browser import browser


class Squares(Windowed):
    """A mask of square cells in rows, computed where it is read."""

    def __init__(self, across: int, cell_px: int) -> None:
        super().__init__((across * cell_px, across * cell_px), np.uint32)
        self.across, self.cell_px = across, cell_px

    def read(self, picks):
        """Return the pixels at ``picks``."""
        y, x = (np.asarray(pick) for pick in picks)
        cells = (y // self.cell_px)[:, None] * self.across + (x // self.cell_px)[None] + 1
        inside = (y % self.cell_px > 0)[:, None] & (x % self.cell_px > 0)[None]
        return np.where(inside, cells, 0).astype(np.uint32)


class Stained(Windowed):
    """Channels of square cells, brighter in some of them."""

    def __init__(self, mask: Squares, channels: int) -> None:
        super().__init__((channels, *mask.shape), np.uint16)
        self.mask = mask

    def read(self, picks):
        """Return the pixels at ``picks``."""
        cells = self.mask.read(picks[1:])
        return np.stack([((cells * (2 * channel + 3)) % 251 * 40 * (cells > 0)) for channel in picks[0]]).astype(
            np.uint16
        )


def make(n: int, features: int, cell_px: int) -> tuple[AnnData, Slide, Squares]:
    across = int(np.ceil(np.sqrt(n)))
    n, rng = across * across, np.random.default_rng(0)
    mask = Squares(across, cell_px)
    names = ("Hoechst", "CD3e", "CD20", "Pan-CK")
    slide = Slide("large", Stained(mask, len(names)), names, pixel_size_um=0.5)
    row, column = np.divmod(np.arange(n), across)
    clusters = (row // 40 * 7 + column // 40 * 3) % 20
    obs = pd.DataFrame({"cell_id": np.arange(1, n + 1, dtype=np.uint32), "slide": pd.Categorical(["large"] * n)})
    obs["x_px"], obs["y_px"] = (column + 0.5) * cell_px, (row + 0.5) * cell_px
    obs["leiden"] = pd.Categorical([str(one) for one in clusters], categories=[str(one) for one in range(20)])
    obs.index = [f"large_{cell}" for cell in obs["cell_id"]]
    angle = clusters * 2 * np.pi / 20
    umap = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 8 + rng.normal(size=(n, 2))
    z = (rng.normal(size=(n, features)) + clusters[:, None] % 5).astype(np.float32)
    x = rng.gamma(2, 500, (n, len(names))).astype(np.float32)
    adata = AnnData(
        x,
        obs=obs,
        var=pd.DataFrame(index=list(names)),
        obsm={"X_umap": umap, "X_splicer": z, "spatial": obs[["x_px", "y_px"]].to_numpy() / 2},
    )
    return adata, slide, mask


def write(options: argparse.Namespace) -> None:
    """Write the page and print its sizes."""
    adata, slide, mask = make(options.cells, options.features, options.cell_px)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    write_web(adata, options.out, slides=[slide], masks=[mask], overwrite=True)
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{adata.n_obs:,} cells, {slide.shape_px} px: {seconds:.0f} s, {(peak - before) / 1024:.0f} MB more memory")
    for part in ("data", "examples", "tiles"):
        sizes = [path.stat().st_size for path in (options.out / part).rglob("*.js")]
        print(f"{part}: {sum(sizes) / 1e6:.1f} MB in {len(sizes)} files")


def measure(folder: Path, width: int, height: int, rounds: int) -> None:
    """Open the page, and choose one column after the other by the keyboard; the first round loads them."""
    with browser(Path(tempfile.mkdtemp())) as page:
        began = time.monotonic()
        page.open((folder / "index.html").as_uri(), width=width, height=height)
        page.wait("document.documentElement.dataset.ready === 'yes'", seconds=300)
        seconds = time.monotonic() - began
        first = {url for url in page.urls if url.startswith("file:") and "/tiles/" not in url}
        size = sum(Path(url.removeprefix("file://")).stat().st_size for url in first)
        print(f"opened after {seconds:.1f} s; {size / 1e6:.1f} MB in {len(first)} files before tiles")
        page.wait("tiles.inFlight === 0 && tiles.wanted.length === 0")
        time.sleep(2)  # for the first pictures
        page.run(WATCH)
        names, found = page.run("content.columns.map((one) => one.name)"), []
        for step in range(rounds * len(names)):
            page.run("shown = null; at('colour').focus()")
            before = cpu_ms(page)
            page.press("ArrowDown" if step % len(names) < len(names) - 1 else "Home")
            times = page.wait("shown")
            time.sleep(0.3)  # for what is drawn after the picture
            found.append({**times, "cpu": cpu_ms(page) - before, "name": page.run("state.column.name")})
        for title, some in (("loaded", found[: len(names) - 1]), ("shown before", found[len(names) - 1 :])):
            print(f"{title}: smallest and median of {len(some)} in ms; the first took {some[0]['shown']:.0f} ms")
            for key in ("load", "upload", "draw", "shown", "cpu"):
                values = [one[key] for one in some]
                print(f"  {key:>6} {min(values):6.0f} {np.median(values):6.0f}")
        print("errors:", page.errors)


def cpu_ms(page) -> float:
    """Return the processor time of all processes of the browser in milliseconds."""
    session, page._session = page._session, None  # a question to the browser
    processes = page.call("SystemInfo.getProcessInfo")["processInfo"]
    page._session = session
    return 1000 * sum(one["cpuTime"] for one in processes)


# Milliseconds of loading, upload and drawing of the last change of colours, and from the key until the new legend was
# on the screen, which is in the same picture as the new colours or, where it takes longer, after it.
WATCH = """
let chosen = 0, shown = null;
at("colour").addEventListener("change", (event) => (chosen = event.timeStamp), true);
new PerformanceObserver((list) => {
  shown = { ...timing, shown: list.getEntries()[0].renderTime - chosen };
}).observe({ type: "element" });
const fill = fillLegend;
fillLegend = () => {
  fill();
  const text = make("p", {}, state.column.name);
  text.setAttribute("elementtiming", "legend");
  at("legend").prepend(text);
};
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=4)
    parser.add_argument("--cell-px", type=int, default=12, help="side of a cell; more of it is a larger slide")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument("--window", type=int, nargs=2, default=(1280, 900), help="width and height")
    parser.add_argument("--rounds", type=int, default=4, help="how often each column is chosen")
    parser.add_argument("--keep", action="store_true", help="measure the page that an earlier call wrote")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "bench_web")
    options = parser.parse_args()
    if not options.keep:
        write(options)
    if not options.no_browser:
        measure(options.out, *options.window, options.rounds)
