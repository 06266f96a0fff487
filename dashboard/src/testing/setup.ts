// What every test of the page starts from.
import "@testing-library/jest-dom/vitest";
import { cleanup, configure } from "@testing-library/react";
import { afterEach } from "vitest";

// An upper bound for what never comes: a slow machine needs no more.
configure({ asyncUtilTimeout: 60_000 });

afterEach(() => {
  cleanup();
  history.replaceState(null, "", "/dashboard/");
});
