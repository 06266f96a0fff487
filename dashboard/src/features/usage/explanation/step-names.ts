// The steps of the plans in words for readers; `/usage/plans` has their rates.

const NAMES = new Map([
  ["report", "Price of the report"],
  ["base", "Starting price of every message"],
  ["characters", "Length of the text, in characters"],
  ["words", "Words: 1 to 3 points for each, by its length"],
  ["third_vowels", "Vowels among every third character"],
  ["length_penalty", "Surcharge for a long text"],
  ["unique_words", "Discount where no word occurs twice"],
  ["palindrome", "Doubling of a text that reads the same backwards"],
  ["tokens", "Length of the text, in estimated tokens"],
  ["minimum", "Raise to the lowest price"],
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
