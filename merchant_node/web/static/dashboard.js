// What the dashboard's pages do beyond HTML. Every one of them works without this file.
"use strict";

// <form data-upload>: sent with a progress bar; the answer's page takes the place of this one.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.upload === undefined || event.defaultPrevented) {
    return;
  }
  event.preventDefault();
  if (form.dataset.sent) {
    return;
  }
  form.dataset.sent = "yes";
  const bar = form.querySelector(".upload");
  const button = form.querySelector("[data-busy]");
  const request = new XMLHttpRequest();
  const again = () => {
    delete form.dataset.sent;
    button.removeAttribute("aria-busy");
    bar.hidden = true;
  };
  button.setAttribute("aria-busy", "true");
  bar.hidden = false;
  request.upload.addEventListener("progress", (sent) => {
    if (sent.lengthComputable) {
      bar.firstElementChild.value = (100 * sent.loaded) / sent.total;
    }
  });
  request.addEventListener("load", () => {
    if (request.responseURL !== form.action || request.status === 401) {
      location.assign(request.responseURL);
      return;
    }
    if (request.status < 400) {
      location.reload();
      return;
    }
    again();
    show(request.responseText);
  });
  request.addEventListener("error", again);
  request.open("POST", form.action);
  // What is said on the next page is kept for the page that the browser opens then.
  request.setRequestHeader("HX-Request", "true");
  request.send(new FormData(form, event.submitter));
});

function show(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const main = page.getElementById("main");
  if (main) {
    const files = new Map(
      [...document.querySelectorAll("input[type=file]")].map((input) => [input.id, input.files]));
    document.getElementById("main").replaceWith(main);
    for (const input of main.querySelectorAll("input[type=file]")) {
      // What was chosen is chosen still: nobody looks for a file twice.
      input.files = files.get(input.id) ?? input.files;
    }
    main.querySelector("[aria-invalid=true]")?.focus();
    window.scrollTo(0, 0);
  }
}
