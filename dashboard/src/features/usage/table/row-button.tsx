// Opens and closes a row; its text is the message's id.
import { RowText } from "./row-text";

interface Props {
  messageId: string;
  isOpen: boolean;
  onToggle: () => void;
}

export function RowButton({ messageId, isOpen, onToggle }: Props) {
  return (
    <button
      type="button"
      className="row-button"
      aria-expanded={isOpen}
      aria-label={`Message ${messageId || "without an id"}, show how its price was made`}
      onClick={onToggle}
    >
      <span className="row-chevron" aria-hidden="true" />
      <RowText text={messageId || "–"} />
    </button>
  );
}
