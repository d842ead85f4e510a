// A book opened from a folder (file:) must work like the published one.
(function () {
  "use strict";
  // Search fetches each hit's page to quote from it. Browsers refuse to fetch from file:, and report an error for every
  // hit; the list of hits itself needs no fetch. Runs before the search does, because that waits for the whole page.
  if (window.location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }

  // What scrolls sideways must be reachable without a mouse.
  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".cell_output .output, div.math").forEach(function (box) {
      if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) {
        box.setAttribute("tabindex", "0");
      }
    });
  });
})();
