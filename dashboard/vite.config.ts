// How the page is built, served while developing, and tested.
import react from "@vitejs/plugin-react";
import { fileURLToPath } from "node:url";
import { compression, defineAlgorithm } from "vite-plugin-compression2";
import { defineConfig } from "vitest/config";

const SERVICE = "http://127.0.0.1:8000";

export default defineConfig({
  base: "/dashboard/",
  plugins: [
    react(),
    compression({
      algorithms: [defineAlgorithm("brotliCompress"), defineAlgorithm("gzip")],
      include: /\.(js|css|svg)$/,
      threshold: 1024,
    }),
  ],
  resolve: {
    alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) },
  },
  build: {
    outDir: "../service/web/static/dashboard",
    emptyOutDir: true,
    // The page's policy allows nothing inline, data: scripts and styles included.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: true,
  },
  server: {
    // `npm run dev` beside `make run`.
    proxy: { "/usage": SERVICE, "/docs": SERVICE, "/openapi.json": SERVICE },
  },
  test: {
    environment: "jsdom",
    setupFiles: ["./src/testing/setup.ts"],
    include: ["src/**/*.test.{ts,tsx}"],
    restoreMocks: true,
    // Upper bounds for what is stuck: a slow machine needs no more.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
