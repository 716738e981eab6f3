// Making elements, and writing numbers. Text is always set as text: what comes from outside (names,
// reasons, states) can never become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

// Only what differs is written: selections and screen readers are left in peace.
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function data(element, name, value) {
  if (value === null || value === undefined || value === false) delete element.dataset[name];
  else if (element.dataset[name] !== String(value)) element.dataset[name] = value;
}

// One element for each item, kept from one update to the next. `make(item)` gives
// {element, update(item, context)}.
export function keyed(parent, items, key, make, context) {
  const kept = (parent.kept ??= new Map());
  const wanted = new Set();
  let position = 0;
  for (const item of items) {
    const name = String(key(item));
    wanted.add(name);
    let part = kept.get(name);
    if (!part) kept.set(name, (part = make(item)));
    part.update(item, context);
    if (parent.children[position] !== part.element) {
      parent.insertBefore(part.element, parent.children[position] ?? null);
    }
    position += 1;
  }
  for (const [name, part] of kept) {
    if (!wanted.has(name)) {
      part.element.remove();
      kept.delete(name);
    }
  }
}

// A definition list of [name, value] pairs.
export function facts(list, pairs) {
  keyed(list, pairs, ([name]) => name, ([name]) => {
    const value = h("dd");
    const element = h("div", {}, h("dt", {}, name), value);
    return { element, update: ([, now]) => text(value, now) };
  });
}

// Written into the cells that are there already: what has the focus, or is selected, keeps it.
export function table(element, heads, rows) {
  if (!element.tHead) {
    element.append(h("thead", {}, h("tr", {}, ...heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))), h("tbody"));
  }
  const body = element.tBodies[0];
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.appendChild(h("tr", {}, ...cells.map(() => h("td"))));
    cells.forEach((cell, column) => {
      const there = row.cells[column];
      if (typeof cell === "string") text(there, cell);
      else if (there.firstChild?.href !== cell.href || there.textContent !== cell.textContent) there.replaceChildren(cell);
    });
  });
}

export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

// --- numbers

export const sum = (values) => Object.values(values ?? {}).reduce((a, b) => a + b, 0);

export const failing = (now) => (now.errors.failed ?? 0) + (now.errors.unavailable ?? 0);

export const ago = (seconds) => `${duration(seconds)} ago`;

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en-US");
  if (Math.abs(value) >= 10) return value.toFixed(Number.isInteger(value) ? 0 : 1);
  return value.toFixed(Number.isInteger(value) ? 0 : value < 0.1 ? 3 : 2);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;

export function clock(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 19);
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// "since 21:40:02 (12 s)"
export function since(at, now) {
  if (at === null || at === undefined) return "";
  const day = now - at > 72000 ? `${new Date(at * 1000).toISOString().slice(0, 10)} ` : "";
  return `since ${day}${clock(at)} (${duration(now - at)})`;
}

// 20261124 as 24 Nov
export function dayName(day) {
  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  return `${Number(day.slice(6, 8))} ${months[Number(day.slice(4, 6)) - 1]}`;
}

export function dayStart(day) {
  return Date.UTC(Number(day.slice(0, 4)), Number(day.slice(4, 6)) - 1, Number(day.slice(6, 8))) / 1000;
}
