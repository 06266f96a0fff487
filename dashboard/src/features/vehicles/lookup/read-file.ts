// The lines of a dropped file, or its column of VINs.
import { isVin } from "./vin";

export const MAX_FILE_BYTES = 1024 * 1024;

const DELIMITERS = [",", ";", "\t"];
/** Lines before the head of a table, such as `sep=;`. */
const MAX_HEAD_ROWS = 5;

/** Why a file cannot be read, as a sentence. */
export class FileError extends Error {}

/** Return the VINs of a file, one for each line. Throws `FileError`. */
export async function readFile(
  file: Pick<File, "size" | "arrayBuffer">,
): Promise<string[]> {
  if (file.size > MAX_FILE_BYTES) {
    throw new FileError(
      "The file is larger than 1 MiB. For large files, use the command: copilot-usage vehicles lookup FILE.",
    );
  }
  const bytes = await file.arrayBuffer();
  const text = decode(bytes);
  // Spreadsheets and pictures have NUL characters.
  if (text.includes("\0")) {
    throw new FileError("The file is no text. Save it as CSV or as plain text.");
  }
  const vins = columnOfVins(text);
  if (vins.every((each) => each.trim() === "")) {
    throw new FileError("The file has no VIN.");
  }
  return vins;
}

/** Return the text of a file; VINs have the same bytes in all encodings but UTF-16. */
function decode(bytes: ArrayBuffer): string {
  const [first, second] = new Uint8Array(bytes);
  // Excel saves "Unicode text" so.
  if (first === 0xff && second === 0xfe)
    return new TextDecoder("utf-16le").decode(bytes);
  // Excel saves CSV in the encoding of Windows, where other bytes are letters.
  return new TextDecoder().decode(bytes);
}

/** Return the column of VINs of a text: that named VIN, or the one with most VINs. */
export function columnOfVins(text: string): string[] {
  const tables = DELIMITERS.map((delimiter) => rowsOf(text, delimiter));
  for (const rows of tables) {
    const named = columnNamedVin(rows);
    if (named) return named;
  }
  let best = { vins: text.split(/\r\n|\r|\n/), count: 0 };
  for (const rows of tables) {
    const { at, count } = fullestColumn(rows);
    if (count > best.count) best = { vins: rows.map((row) => row[at] ?? ""), count };
  }
  return best.vins;
}

function columnNamedVin(rows: readonly string[][]): string[] | null {
  for (const [at, row] of rows.slice(0, MAX_HEAD_ROWS).entries()) {
    const named = row.findIndex((cell) => /^\s*vins?\s*$/i.test(cell));
    if (named >= 0) return rows.slice(at + 1).map((each) => each[named] ?? "");
  }
  return null;
}

function fullestColumn(rows: readonly string[][]): { at: number; count: number } {
  const counts = new Map<number, number>();
  let best = { at: 0, count: 0 };
  for (const [at, cell] of rows.flatMap((row) => [...row.entries()])) {
    if (!isVin(cell)) continue;
    const count = (counts.get(at) ?? 0) + 1;
    counts.set(at, count);
    if (count > best.count) best = { at, count };
  }
  return best;
}

/** Return the cells of CSV; a quoted cell may have delimiters and ends of lines. */
function rowsOf(text: string, delimiter: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = "";
  let isQuoted = false;
  for (const character of text.replace(/\r\n?/g, "\n")) {
    if (character === '"') isQuoted = !isQuoted;
    else if (isQuoted || (character !== delimiter && character !== "\n"))
      cell += character;
    else {
      row.push(cell);
      cell = "";
      if (character === delimiter) continue;
      rows.push(row);
      row = [];
    }
  }
  rows.push([...row, cell]);
  return rows;
}
