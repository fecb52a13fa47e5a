// DataTables draws the table. This script starts it, and adds what DataTables has no option for.

// DataTables uses dark colours if the root element has the class `dark`.
const dark = matchMedia("(prefers-color-scheme: dark)");
const setClass = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", setClass);
setClass();

// In both directions, numbers come before texts, and runs without a value come last.
const rank = value => typeof value === "number" ? 0 : value === "" ? 2 : 1;
const order = sign => (a, b) => rank(a) - rank(b) || sign * (rank(a) ? a.localeCompare(b) : a - b);
Object.assign(DataTable.ext.type.order, {"value-asc": order(1), "value-desc": order(-1)});

const options = JSON.parse(document.getElementById("options").textContent);
const table = new DataTable("#runs", options);
