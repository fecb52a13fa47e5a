// DataTables draws the table. These lines start it, and do what it has no option for.

// It is dark if the page has this class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", follow);
follow();

// Numbers come before texts, and runs without a value last, in either direction.
const rank = value => typeof value === "number" ? 0 : value === "" ? 2 : 1;
const order = sign => (a, b) => rank(a) - rank(b) || sign * (rank(a) ? a.localeCompare(b) : a - b);
Object.assign(DataTable.ext.type.order, {"value-asc": order(1), "value-desc": order(-1)});

new DataTable("#runs", JSON.parse(document.getElementById("options").textContent));
