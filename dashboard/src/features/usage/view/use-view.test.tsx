import { act, renderHook } from "@testing-library/react";
import { expect, test } from "vitest";

import { useView } from "./use-view";
import { NO_FILTERS } from "./view";

test("the view is what the address says when the page opens", () => {
  history.replaceState(null, "", "/dashboard/?day=2024-04-29&search=lease");
  const { result } = renderHook(() => useView());
  expect(result.current[0]).toMatchObject({
    range: { from: "2024-04-29", to: "2024-04-29" },
    search: "lease",
  });
});

test("a change is written into the address without new history", () => {
  const { result } = renderHook(() => useView());
  const before = history.length;
  act(() => result.current[1]({ report: "Short Lease Report" }));
  act(() =>
    result.current[1]({ sorting: [{ column: "report_name", direction: "asc" }] }),
  );
  expect(location.search).toBe("?sorting=report_name:asc&report=Short+Lease+Report");
  expect(history.length).toBe(before);
});

test("two changes at once both count", () => {
  const { result } = renderHook(() => useView());
  act(() => {
    result.current[1]({ range: { from: "2024-04-29", to: "2024-05-01" } });
    result.current[1]({ search: "rent" });
  });
  expect(result.current[0]).toMatchObject({
    range: { from: "2024-04-29", to: "2024-05-01" },
    search: "rent",
  });
});

test("what an address says wrongly is gone from it", () => {
  history.replaceState(null, "", "/dashboard/?day=2024-02-30&sorting=x:y#notes");
  renderHook(() => useView());
  expect(location.pathname + location.search + location.hash).toBe("/dashboard/#notes");
});

test("what is ignored is named until the view is changed", () => {
  history.replaceState(null, "", "/dashboard/?tz=Mars/Base&search=rent");
  const { result } = renderHook(() => useView());
  expect(result.current[2]).toEqual(["tz=Mars/Base"]);
  expect(location.search).toBe("?search=rent");
  act(() => {
    history.pushState(null, "", "/dashboard/?search=rent#content");
    dispatchEvent(new PopStateEvent("popstate"));
  });
  expect(result.current[2]).toEqual(["tz=Mars/Base"]);
  act(() => result.current[1]({ zone: "Europe/London" }));
  expect(result.current[2]).toEqual([]);
});

test("going back to another address brings back its view", () => {
  const { result } = renderHook(() => useView());
  act(() => {
    history.replaceState(null, "", "/dashboard/?search=lease");
    dispatchEvent(new PopStateEvent("popstate"));
  });
  expect(result.current[0].search).toBe("lease");
});

test("clearing the filters leaves the sorting and the plan", () => {
  history.replaceState(
    null,
    "",
    "/dashboard/?sorting=report_name:asc&report=&search=a&plan=text-rules",
  );
  const { result } = renderHook(() => useView());
  act(() => result.current[1](NO_FILTERS));
  expect(location.search).toBe("?sorting=report_name:asc&plan=text-rules");
});

test("a page that has gone no longer listens", () => {
  const { result, unmount } = renderHook(() => useView());
  unmount();
  history.replaceState(null, "", "/dashboard/?search=lease");
  dispatchEvent(new PopStateEvent("popstate"));
  expect(result.current[0].search).toBe("");
});
