// The errors of events in words for people; docs/codes.md lists the codes.

interface ErrorWords {
  title: string;
  advice: string;
}

const APPLICATION =
  "Correct the application that sends it; this event cannot be mended.";

const WORDS = new Map<string, ErrorWords>(
  Object.entries({
    conflict: {
      title: "Another event has this id",
      advice: "The first one stays. Let the application use unique ids.",
    },
    data_too_large: {
      title: "The data is larger than 32 KiB",
      advice: "Let the application send less.",
    },
    future_timestamp: {
      title: "The timestamp is in the future",
      advice: "Set the clock of the sender. A replay succeeds once that time has come.",
    },
    missing: { title: "A field is missing", advice: APPLICATION },
    not_json: {
      title: "It is not JSON",
      advice: "Correct the program that writes it.",
    },
    nul_character: {
      title: "A text has a NUL character",
      advice: "Remove it; databases cannot store it.",
    },
    schema: {
      title: "The data does not match the schema of its type",
      advice: "Correct the application; or correct the schema, and replay the events.",
    },
    unknown_field: {
      title: "There is a field that events do not have",
      advice: "Move it into the data.",
    },
    unknown_type: {
      title: "The type has no schema",
      advice: "Add a schema for it, and replay the events.",
    },
    unreadable: {
      title: "Not every reader accepts this JSON",
      advice: "A number is too large, or the values are nested too deeply.",
    },
    unreadable_timestamp: {
      title: "The timestamp is not in the form of ISO 8601",
      advice: APPLICATION,
    },
    unsupported_version: {
      title: "The version of CloudEvents is not 1.0",
      advice: "Send CloudEvents 1.0.",
    },
    wrong_length: {
      title: "A name or an id is empty or too long",
      advice: "Each has 1 to 200 characters.",
    },
    wrong_type: { title: "A field has the wrong type", advice: APPLICATION },
  }),
);

/** Return what is wrong, and what to do; a new code stands for itself. */
export function errorWords(code: string): ErrorWords {
  return WORDS.get(code) ?? { title: code.replaceAll("_", " "), advice: "" };
}
