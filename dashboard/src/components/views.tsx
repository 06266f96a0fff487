// Links between the views of one page.
import type { MouseEvent } from "react";

import { queryWith, type AddressChange, type GoTo } from "@/address/use-address";

export interface ViewLink {
  title: string;
  /** The parameters of the address that lead there. */
  change: AddressChange;
  isCurrent: boolean;
}

interface Props {
  label: string;
  links: readonly ViewLink[];
  onGo: GoTo;
}

export function Views({ label, links, onGo }: Props) {
  return (
    <nav className="views" aria-label={label}>
      <ul>
        {links.map(({ title, change, isCurrent }) => (
          <li key={title}>
            <AddressLink change={change} isCurrent={isCurrent} onGo={onGo}>
              {title}
            </AddressLink>
          </li>
        ))}
      </ul>
    </nav>
  );
}

interface LinkProps {
  change: AddressChange;
  isCurrent?: boolean;
  onGo: GoTo;
  /** What tells it from other links of the same text, for screen readers. */
  detail?: string;
  children: string;
}

/** A link to the same page with other parameters, without loading it again. */
export function AddressLink({ change, isCurrent, onGo, detail, children }: LinkProps) {
  const follow = (event: MouseEvent) => {
    // The browser opens new tabs and windows itself.
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    onGo(change);
  };
  return (
    <a
      href={location.pathname + queryWith(location.search, change)}
      aria-label={detail ? `${children}: ${detail}` : undefined}
      aria-current={isCurrent ? "page" : undefined}
      onClick={follow}
    >
      {children}
    </a>
  );
}
