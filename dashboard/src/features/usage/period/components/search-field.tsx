// The filter by a part of a report's name.
import { useId, type Ref } from "react";

import { LONGEST_TEXT } from "@/features/usage/view/view";

interface Props {
  field: Ref<HTMLInputElement>;
  text: string;
  onType: (text: string) => void;
}

export function SearchField({ field, text, onType }: Props) {
  const id = useId();
  return (
    <div className="filter filter-search">
      <label htmlFor={id}>Report name contains</label>
      <input
        ref={field}
        id={id}
        type="search"
        dir="auto"
        autoComplete="off"
        spellCheck={false}
        maxLength={LONGEST_TEXT}
        value={text}
        onChange={({ target }) => onType(target.value)}
      />
    </div>
  );
}
