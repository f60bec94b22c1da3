import { defineConfig } from "vite";

// Page and proxy share an origin, as behind one host name in production: what begins with /bidiway/ is the proxy's.
// Without this, give `createChannel` the proxy's URL, and the proxy this page's origin (`origins` in its configuration).
export default defineConfig({
  server: { proxy: { "/bidiway": { target: process.env.BIDIWAY ?? "http://127.0.0.1:8080", ws: true } } },
});
