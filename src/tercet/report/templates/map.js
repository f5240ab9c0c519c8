"use strict";
(() => {
  const view = document.getElementById("map-view");
  const card = document.getElementById("map-card");
  const thumb = document.getElementById("map-thumb");
  const text = document.getElementById("map-text");
  const marks = [...view.querySelectorAll(".mark")];
  const at = marks.map((mark) => [Number(mark.dataset.x), Number(mark.dataset.y)]);
  const cell = Number(view.dataset.cell);
  let shown = -1;
  view.tabIndex = 0;
  view.setAttribute("aria-label", "Map. Arrow keys go from sample to sample, Escape leaves them.");
  card.hidden = false;
  const show = (n) => {
    shown = n;
    const own = n < 0 ? null : marks[n].dataset.who;
    marks.forEach((mark, i) => {
      mark.classList.toggle("own", mark.dataset.who === own);
      mark.classList.toggle("here", i === n);
    });
    view.classList.toggle("some", n >= 0);
    if (n < 0) return;
    const { column, row, who, path } = marks[n].dataset;
    thumb.style.backgroundPosition = `${-column * cell}px ${-row * cell}px`;
    thumb.setAttribute("aria-label", `sample of ${who}`);
    text.textContent = `${who} · ${path}`;
  };
  const point = (event) => {
    const svg = view.querySelector("svg");
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = -1;
    let least = 30 * 30;
    at.forEach(([x, y], i) => {
      const far = (x - place.x) ** 2 + (y - place.y) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    if (best >= 0) show(best);
  };
  view.addEventListener("pointermove", point);
  view.addEventListener("pointerdown", point);
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return show(-1);
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    if (shown < 0) return show(0);
    const [x, y] = at[shown];
    let best = shown;
    let least = Infinity;
    at.forEach((there, i) => {
      const along = (there[0] - x) * way[0] + (there[1] - y) * way[1];
      const aside = Math.abs((there[0] - x) * way[1]) + Math.abs((there[1] - y) * way[0]);
      const far = along + 2 * aside;
      if (i !== shown && along > 0 && far < least) [best, least] = [i, far];
    });
    show(best);
  });
})();
