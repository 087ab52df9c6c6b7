// What pages do beyond HTML. Every one of them works without this file.
"use strict";

// <time data-countdown="MILLISECONDS SINCE 1970" data-now="THE SERVER'S, WHEN IT MADE THE PAGE">
function tick() {
  for (const element of document.querySelectorAll("[data-countdown]")) {
    if (element.begun === undefined) {
      element.begun = performance.now();
    }
    const passed = performance.now() - element.begun;
    const left = Number(element.dataset.countdown) - Number(element.dataset.now) - passed;
    const seconds = Math.max(0, Math.ceil(left / 1000));
    const text = seconds >= 5400 ? `${Math.round(seconds / 3600)} h`
      : seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${seconds} s`;
    if (element.textContent !== text) {
      element.textContent = text;
    }
    if (seconds === 0 && element.dataset.over && !element.dataset.told) {
      element.dataset.told = "yes";
      document.getElementById(element.dataset.over)?.removeAttribute("hidden");
    }
  }
}

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.once !== undefined) {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    form.querySelector("[data-busy]")?.setAttribute("aria-busy", "true");
  }
});

// A page that the browser kept shows a form that was sent: it may be sent again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) {
    delete form.dataset.sent;
    form.querySelector("[data-busy]")?.removeAttribute("aria-busy");
  }
});

// A select that sends its form at each change; its button is for those without scripts.
document.addEventListener("change", (event) => {
  if (event.target.dataset.submits !== undefined) {
    event.target.form.requestSubmit();
  }
});

document.addEventListener("DOMContentLoaded", () => {
  document.documentElement.classList.add("scripted");
  document.querySelector("[aria-invalid=true]")?.focus();
  tick();
  setInterval(tick, 1000);
});
document.addEventListener("htmx:afterSettle", tick);
