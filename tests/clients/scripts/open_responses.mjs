// The Open Responses compliance suite, its HTTP part, by its own program on a checkout beside this script.

import { spawnSync } from "node:child_process";
import path from "node:path";
import { done, URL } from "./session.mjs";

const here = import.meta.dirname;
const program = path.join(here, "suite", "bin", "compliance-test.ts");
const asked = [program, "--base-url", `${URL}/v1`, "--api-key", "x", "--model", "caller", "--json"];
const run = spawnSync(path.join(here, "node_modules", ".bin", "tsx"), asked, { encoding: "utf8" });
process.stderr.write(run.stdout + run.stderr);
for (const { id, status, errors } of JSON.parse(run.stdout).results) {
  if (id.startsWith("websocket-")) continue; // that transport is not served
  if (status !== "skipped") console.log(`${status === "passed" ? "ok" : "failed"} ${id}`);
  if (status === "failed") console.error(id, errors);
}
done();
