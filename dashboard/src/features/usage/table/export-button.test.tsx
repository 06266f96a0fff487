import { fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Row } from "../period";
import { ExportButton } from "./export-button";

const [CHEAP, DEAR] = [row(0, 520), row(1, 7_900)];

function row(position: number, hundredths: number): Row {
  return {
    position,
    messageId: String(1000 + position),
    instant: null,
    timestamp: "29-04-2024 03:25",
    day: "2024-04-29",
    reportName: "",
    hundredths,
  };
}

/** jsdom's blobs have no `text()`. */
function textOf(blob: Blob | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error("unreadable"));
    reader.readAsText(blob as Blob);
  });
}

describe("ExportButton", () => {
  const saved: Blob[] = [];
  const links: HTMLAnchorElement[] = [];
  const revoke = vi.fn();

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    saved.length = links.length = 0;
    revoke.mockClear();
    // jsdom has neither.
    URL.createObjectURL = (blob) => `blob:${saved.push(blob as Blob)}`;
    URL.revokeObjectURL = revoke;
    vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function (
      this: HTMLAnchorElement,
    ) {
      links.push(this);
    });
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  function exportRows(isWhatIf = false, filters = ""): void {
    render(
      <ExportButton
        rows={[CHEAP, DEAR]}
        sorting={[{ column: "credits_used", direction: "desc" }]}
        zone="UTC"
        period="2024-04-29 to 2024-05-28"
        plan="text-rules/1"
        isWhatIf={isWhatIf}
        filters={filters}
      />,
    );
    fireEvent.click(screen.getByRole("button", { name: "Export CSV" }));
  }

  it("saves the rows in the order shown, without a total", async () => {
    exportRows();
    const lines = (await textOf(saved[0])).split("\r\n").map((line) => line.split(","));
    expect(lines.map((line) => [line[0], line[3]])).toEqual([
      ["Message ID", "Credits Used"],
      ["1001", "79.00"],
      ["1000", "5.20"],
      ["", undefined],
    ]);
  });

  it("names the file and its kind", () => {
    exportRows();
    expect(links.map((link) => [link.download, link.href])).toEqual([
      ["copilot-usage 2024-04-29 to 2024-05-28, text-rules-1.csv", "blob:1"],
    ]);
    expect(saved[0]?.type).toBe("text/csv;charset=utf-8");
  });

  it("names the file for the filters, and for a plan that is not the customer's", () => {
    exportRows(true, "report “../Lease: Über”");
    expect(links[0]?.download).toBe(
      "copilot-usage 2024-04-29 to 2024-05-28, text-rules-1, not your plan, report Lease Über.csv",
    );
  });

  it("lets the file's memory go once it is saved", () => {
    exportRows();
    expect(revoke).not.toHaveBeenCalled();
    vi.runAllTimers();
    expect(revoke).toHaveBeenCalledExactlyOnceWith("blob:1");
  });
});
