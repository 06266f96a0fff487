// What `npm run check` holds: types, hooks, accessibility, and import directions.
import js from "@eslint/js";
import jsxA11y from "eslint-plugin-jsx-a11y";
import reactHooks from "eslint-plugin-react-hooks";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const FEATURES = ["events", "usage", "vehicles"];

/** A feature knows what all share, and no other feature; `app` puts them together. */
const featureZones = FEATURES.map((feature) => ({
  files: [`src/features/${feature}/**`],
  rules: {
    "no-restricted-imports": [
      "error",
      {
        patterns: [
          {
            group: [
              ...FEATURES.filter((other) => other !== feature).map(
                (other) => `@/features/${other}/*`,
              ),
              "@/app/*",
            ],
            message: "a feature imports neither another feature nor app",
          },
        ],
      },
    ],
  },
}));

export default defineConfig(
  globalIgnores(["src/api/schema.ts"]),
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  jsxA11y.flatConfigs.strict,
  reactHooks.configs.flat.recommended,
  {
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true },
      ],
      // Its promise goes to a hook that handles it.
      "@typescript-eslint/no-confusing-void-expression": [
        "error",
        { ignoreArrowShorthand: true },
      ],
    },
  },
  ...featureZones,
  {
    files: ["src/{api,components,text}/**"],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            {
              group: ["@/features/*", "@/app/*"],
              message: "what all share knows no feature",
            },
          ],
        },
      ],
    },
  },
  { files: ["*.js"], extends: [tseslint.configs.disableTypeChecked] },
);
