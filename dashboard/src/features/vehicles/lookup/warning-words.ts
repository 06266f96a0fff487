// The warnings of vPIC in words for people; docs/look-up-vehicles.md lists them.

const WORDS = new Map([
  ["check_digit", "The check digit at position 9 is wrong"],
  ["corrected", "One position was wrong, and vPIC has corrected it"],
  [
    "corrected_by_check_digit",
    "vPIC has corrected one position, if the check digit is right",
  ],
  [
    "ambiguous_correction",
    "One position is wrong, and several corrections are possible",
  ],
  ["errors_in_positions", "A few positions do not fit the manufacturer"],
  ["incomplete", "The VIN is not complete"],
  ["unknown_manufacturer", "The manufacturer is not registered in the United States"],
  ["no_detailed_data", "vPIC has no details"],
  ["glider", "It is a glider kit"],
  ["off_road", "It is for use off the road"],
  ["invalid_model_year_character", "The character at position 10 is no model year"],
  ["model_year_mismatch", "The model year does not fit the VIN"],
  ["unmatched_characters", "Some characters do not fit the manufacturer"],
  ["invalid_characters", "A character is invalid at its position"],
]);

/** Return a warning in words; a new one stands for itself. */
export function warningWords(warning: string): string {
  return WORDS.get(warning) ?? warning.replaceAll("_", " ");
}
