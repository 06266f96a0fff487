// The steps of the plans in a reader's words.

const NAMES = new Map([
  ["report", "Price of the report"],
  ["base", "Starting price of every message"],
  ["characters", "Length of the text: 0.05 for each character"],
  ["words", "Words: 0.10, 0.20 or 0.30 for each, by its length"],
  ["third_vowels", "Vowels among every third character: 0.30 for each"],
  ["length_penalty", "Surcharge for a text longer than 100 characters"],
  ["unique_words", "Discount where no word occurs twice, down to 1.00"],
  ["palindrome", "Doubling of a text that reads the same backwards"],
  ["tokens", "Length of the text: 0.40 for every 4 characters"],
  ["minimum", "Raise to the lowest price, 1.00"],
]);

/** The step in words; one that this page does not know, by its own name. */
export function nameStep(step: string): string {
  return NAMES.get(step) ?? humanise(step);
}

/** `late_night-fee` as `Late night fee`. */
function humanise(step: string): string {
  const words = step.replaceAll(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
