// Everything is visible without this; it only lets a reader filter, fade, hide and sort.
document.documentElement.classList.add("js");

for (const section of document.querySelectorAll("section")) {
  const tool = (name, apply) =>
    section.querySelectorAll(`[data-tool=${name}]`).forEach((input) => input.addEventListener("input", () => apply(input)));

  tool("score", (input) => {
    const above = Number(input.value);
    input.nextElementSibling.textContent = above.toFixed(2);
    for (const box of section.querySelectorAll("[data-score]")) {
      box.classList.toggle(box.classList.contains("truth") ? "missed" : "low", Number(box.dataset.score) <= above);
    }
  });
  tool("strength", (input) => section.style.setProperty("--strength", input.value / 100));
  tool("view", (input) =>
    section.querySelectorAll(`figure[data-view="${input.value}"]`).forEach((figure) => (figure.hidden = !input.checked)));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => (a === "" || b === "" ? (a === "") - (b === "") : b - a || String(a).localeCompare(String(b)));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turned = head.getAttribute("aria-sort") === "descending";
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a, column), value(b, column)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turned ? "ascending" : "descending");
      table.tBodies[0].append(...(turned ? rows.reverse() : rows));
    });
  });
}
