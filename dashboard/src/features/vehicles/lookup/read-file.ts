// The lines of a dropped file, or its column of VINs.
export const MAX_FILE_BYTES = 1024 * 1024;

const DELIMITERS = [",", ";", "\t"];
const LIKE_VIN = /^[A-Z0-9*]{11,17}$/i;
const HAS_DIGIT = /\d/;

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
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    text = "\0";
  }
  // Spreadsheets and pictures have NUL characters, or are not UTF-8.
  if (text.includes("\0")) {
    throw new FileError("The file is no text. Save it as CSV or as plain text.");
  }
  const vins = columnOfVins(text);
  if (vins.every((each) => each.trim() === "")) {
    throw new FileError("The file has no VIN.");
  }
  return vins;
}

/** Return the column of VINs of a text: that named VIN, or where the first one is. */
export function columnOfVins(text: string): string[] {
  const lines = text.split(/\r\n|\r|\n/);
  const delimiter = delimiterOf(lines);
  if (delimiter === null) return withoutHeader(lines);
  const rows = lines.map((line) => cellsOf(line, delimiter));
  const named = rows[0]?.findIndex((cell) => cell.trim().toLowerCase() === "vin") ?? -1;
  if (named >= 0) return rows.slice(1).map((row) => row[named] ?? "");
  const found =
    rows.flatMap((row) => row.findIndex(isLikeVin)).find((at) => at >= 0) ?? 0;
  return withoutHeader(rows.map((row) => row[found] ?? ""));
}

function withoutHeader(cells: string[]): string[] {
  const [first, ...rest] = cells;
  return first !== undefined && /^\s*\uFEFF?\s*"?vins?"?\s*$/i.test(first)
    ? rest
    : cells;
}

function isLikeVin(cell: string): boolean {
  const text = cell.trim();
  return LIKE_VIN.test(text) && HAS_DIGIT.test(text);
}

function delimiterOf(lines: readonly string[]): string | null {
  const sample = lines.slice(0, 10).join("\n");
  return DELIMITERS.find((each) => sample.includes(each)) ?? null;
}

/** Return the cells of a line of CSV; a quoted cell may have delimiters. */
function cellsOf(line: string, delimiter: string): string[] {
  const cells: string[] = [];
  let cell = "";
  let isQuoted = false;
  for (const character of line.replace(/^\uFEFF/, "")) {
    if (character === '"') isQuoted = !isQuoted;
    else if (character === delimiter && !isQuoted) {
      cells.push(cell);
      cell = "";
    } else cell += character;
  }
  return [...cells, cell];
}
