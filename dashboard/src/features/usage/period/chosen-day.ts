// The day that the chart highlights. A context, and not a property, so that a choice
// draws rectangles and leaves Recharts, which would reckon everything anew, alone.
import { createContext } from "react";

export const ChosenDay = createContext<string | null>(null);
