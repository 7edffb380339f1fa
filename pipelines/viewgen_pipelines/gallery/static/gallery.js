// Comfort on top of pages that work without it: keys, filters that apply at once, a run that is followed.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const isStatic = "static" in document.body.dataset;
  document.documentElement.classList.add("scripted");

  const follow = (relation) => {
    const link = document.querySelector(`a[rel="${relation}"]`);
    if (link) link.click();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, textarea")) return;
    const relation = { ArrowLeft: "prev", ArrowRight: "next", k: "prev", j: "next", u: "up" }[event.key];
    if (relation && !event.target.closest(".scroll")) follow(relation);
  });

  const toolbar = document.querySelector(".toolbar");
  if (toolbar) {
    toolbar.addEventListener("change", () => {
      // leave defaults out of the address
      const given = new URLSearchParams(new FormData(toolbar));
      for (const [name, value] of [...given]) {
        if (value === toolbar.elements[name].options[0].value) given.delete(name);
      }
      location.search = given.toString();
    });
    toolbar.addEventListener("submit", (event) => {
      event.preventDefault();
      toolbar.dispatchEvent(new Event("change"));
    });
  }

  // A static page holds every card that was written; order, filters and pages happen here.
  const cards = isStatic && toolbar ? [...document.querySelectorAll(".cards .card")] : [];
  function arrange() {
    const asked = new URLSearchParams(location.search);
    for (const select of toolbar.querySelectorAll("select")) {
      const value = asked.get(select.name);
      if (value !== null && [...select.options].some((option) => option.value === value)) select.value = value;
    }
    const sort = toolbar.elements.sort.value;
    const key = sort.replace("-", "");
    const sign = sort.startsWith("-") ? -1 : 1;
    const wanted = toolbar.elements.class.value;
    const status = toolbar.elements.status.value;
    const views = toolbar.elements.views?.value;
    const shown = cards.filter((card) =>
      (!wanted || card.dataset.class.split(" ").includes(wanted)) && (!status || card.dataset.status === status) &&
      (!views || card.dataset.views.split(" ").includes(views)));
    const value = (card) => (card.dataset[key] === "" ? Infinity : sign * Number(card.dataset[key]));
    const order = (a, b) => {
      const difference = value(a) - value(b);
      return Number.isNaN(difference) || difference === 0 ? a.dataset.row - b.dataset.row : difference;
    };
    shown.sort(order);
    const size = Number(toolbar.elements.size.value);
    const pages = Math.max(1, Math.ceil(shown.length / size));
    const page = Math.min(pages, Math.max(1, Number(asked.get("page")) || 1));
    const visible = new Set(shown.slice((page - 1) * size, page * size));
    const list = document.querySelector(".cards");
    if (list) list.append(...shown);
    for (const card of cards) card.hidden = !visible.has(card);
    for (const pager of document.querySelectorAll(".pager")) renderPager(pager, page, pages, size, shown.length, asked);
  }
  function renderPager(pager, page, pages, size, total, asked) {
    const turn = (target, relation, text) => {
      const inside = target >= 1 && target <= pages;
      const element = document.createElement(inside ? "a" : "span");
      element.className = inside ? "button" : "button off";
      element.textContent = text;
      if (inside) {
        const query = new URLSearchParams(asked);
        query.set("page", target);
        element.rel = relation;
        element.href = `?${query}`;
      }
      return element;
    };
    const place = document.createElement("span");
    place.className = "place";
    place.textContent = total
      ? `${(page - 1) * size + 1} – ${Math.min(page * size, total)} of ${total} images` : "no image fits";
    pager.replaceChildren(turn(page - 1, "prev", "← Previous"), place, turn(page + 1, "next", "Next →"));
  }
  if (cards.length) arrange();

  // Points of the map that take a while, and the strip of the image under the pointer.
  const later = document.querySelector("[data-later]");
  if (later) {
    fetch(root + later.dataset.later, { cache: "no-store" })
      .then((answer) => (answer.ok ? answer.text() : Promise.reject()))
      .then((text) => { later.innerHTML = text; })
      .catch(() => { later.textContent = "The points could not be loaded."; });
  }
  const preview = document.getElementById("preview");
  document.getElementById("map")?.addEventListener("pointerover", (event) => {
    const point = event.target.closest("a[data-strip]");
    preview.hidden = !point;
    if (!point) return;
    preview.querySelector("img").src = root + point.dataset.strip;
    preview.querySelector("figcaption").textContent = point.querySelector("title").textContent;
  });

  // While a run writes the cache, its parts of the page are fetched anew.
  const live = document.getElementById("live");
  if (live && !isStatic) {
    let version = live.dataset.version;
    const look = async () => {
      let pause = 10000;
      try {
        const state = await (await fetch(`${root}live.json`, { cache: "no-store" })).json();
        if (state.running) pause = 2000;
        if (state.running || String(state.version) !== version || live.dataset.running === "1") {
          const text = await (await fetch(location.href, { cache: "no-store" })).text();
          const fresh = new DOMParser().parseFromString(text, "text/html");
          for (const part of document.querySelectorAll("[data-live]")) {
            const now = fresh.getElementById(part.id);
            if (now && now.innerHTML !== part.innerHTML) part.innerHTML = now.innerHTML;
            if (now && part.id === "live") part.dataset.running = now.dataset.running;
          }
          version = String(state.version);
        }
      } catch {
        // the server has ended with its run; what is shown stays
      }
      setTimeout(look, document.hidden ? 15000 : pause);
    };
    setTimeout(look, live.dataset.running === "1" ? 2000 : 10000);
  }
})();
