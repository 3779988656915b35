// Controls that the engine offers, and the keys of the page.

export class Controls {
  constructor(form, send) {
    this.form = form;
    this.send = send;
    this.inputs = {};
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  build(controls, values) {
    this.form.replaceChildren();
    this.inputs = {};
    this.fieldset = document.createElement("fieldset");
    this.form.append(this.fieldset);
    for (const [name, control] of Object.entries(controls)) {
      if (name === "mute" || name === "record") continue; // these have buttons of their own
      const input = this.input(name, control);
      const label = document.createElement("label");
      label.htmlFor = input.id = `control-${name}`;
      label.textContent = control.title;
      const output = document.createElement("output");
      output.htmlFor = input.id;
      this.fieldset.append(label, input, output);
      this.inputs[name] = { input, output, control };
    }
    for (const [name, value] of Object.entries(values)) this.show(name, value);
  }

  input(name, control) {
    if (control.type === "choice") {
      const select = document.createElement("select");
      for (const option of control.names) select.add(new Option(option, option));
      select.addEventListener("change", () => this.send({ set: name, value: select.value }));
      return select;
    }
    const input = document.createElement("input");
    if (control.type === "switch") {
      input.type = "checkbox";
      input.addEventListener("change", () => this.send({ set: name, value: input.checked }));
      return input;
    }
    // What has a wide range is typed, the rest is slid.
    input.type = control.high - control.low <= 64 ? "range" : "number";
    input.min = control.low;
    input.max = control.high;
    input.step = control.whole ? 1 : control.high - control.low <= 1 ? 0.001 : 0.5;
    if (input.type === "number" && !control.whole) input.step = "any";
    input.addEventListener("change", () => {
      if (input.reportValidity()) this.send({ set: name, value: Number(input.value) });
    });
    return input;
  }

  show(name, value) {
    const entry = this.inputs[name];
    if (!entry) return;
    if (entry.control.type === "switch") entry.input.checked = value;
    else if (document.activeElement !== entry.input || entry.input.type === "range") entry.input.value = value;
    if (entry.control.type === "number") entry.output.textContent = withUnit(value, entry.control.unit);
  }

  enable(enabled) {
    if (this.fieldset) this.fieldset.disabled = !enabled;
  }
}

function withUnit(value, unit) {
  if (unit === "Hz" && Math.abs(value) >= 1e6) return `${Number((value / 1e6).toFixed(3))} MHz`;
  return `${Number(value.toPrecision(4))} ${unit}`;
}

export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.key];
    if (!action || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    action();
  });
}
