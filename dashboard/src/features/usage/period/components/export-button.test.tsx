import { fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Row } from "../period";
import { ExportButton } from "./export-button";

const [CHEAP, DEAR] = [row(0, 520), row(1, 7_900)];

function row(position: number, hundredths: number): Row {
  return {
    position,
    messageId: String(1000 + position),
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

  function exportRows(): void {
    render(
      <ExportButton
        rows={[CHEAP, DEAR]}
        sorting={[{ column: "credits_used", direction: "desc" }]}
      />,
    );
    fireEvent.click(screen.getByRole("button", { name: "Export CSV" }));
  }

  it("saves the rows in the order shown, with their total", async () => {
    exportRows();
    const lines = (await textOf(saved[0])).split("\r\n").map((line) => line.split(","));
    expect(lines.map((line) => [line[0], line[3]])).toEqual([
      ["Message ID", "Credits Used"],
      ["1001", "79.00"],
      ["1000", "5.20"],
      ["Total", "84.20"],
      ["", undefined],
    ]);
  });

  it("names the file and its kind", () => {
    exportRows();
    expect(links.map((link) => [link.download, link.href])).toEqual([
      ["copilot-usage.csv", "blob:1"],
    ]);
    expect(saved[0]?.type).toBe("text/csv;charset=utf-8");
  });

  it("lets the file's memory go once it is saved", () => {
    exportRows();
    expect(revoke).not.toHaveBeenCalled();
    vi.runAllTimers();
    expect(revoke).toHaveBeenCalledExactlyOnceWith("blob:1");
  });
});
