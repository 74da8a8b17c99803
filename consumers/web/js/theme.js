/* Runs before anything is painted, so that the page never flashes in the other theme. */
"use strict";
{
  const kept = localStorage.getItem("streamrec.theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
