// Hide the probes that the two selects rule out. Without scripts the page shows them all.
const form = document.querySelector("form.filter");
const levels = [...document.querySelectorAll("details.level")];

function apply() {
  const side = form.elements.side.value;
  const leak = new RegExp("^" + form.elements.leak.value); // before and after, one digit each; a dot is either
  const counts = [0, 0];
  for (const level of levels) {
    let shown = 0;
    const probes = level.querySelectorAll(".probe");
    for (const probe of probes) {
      const { side: own, before, after } = probe.dataset;
      probe.hidden = (side && own !== side) || !leak.test(before + after);
      shown += !probe.hidden;
    }
    level.hidden = !shown;
    level.querySelector(".count").textContent = shown === probes.length ? shown : `${shown} of ${probes.length}`;
    counts[0] += shown;
    counts[1] += probes.length;
  }
  form.querySelector("output").textContent = `${counts[0]} of ${counts[1]} shown`;
}

form.hidden = false;
form.addEventListener("change", apply);
apply();
