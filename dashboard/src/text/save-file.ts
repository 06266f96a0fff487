// Saves a text as a file of the reader.

/** Some browsers read the file only after the click has been dealt with. */
const KEPT_FOR_MS = 10_000;

export function saveFile(name: string, text: string, type: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), KEPT_FOR_MS);
}
