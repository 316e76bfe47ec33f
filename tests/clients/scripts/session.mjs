// What the scripted clients of npm share: the same session as session.py.

import readline from "node:readline";

export const URL = process.env.CLIENTS_URL;
export const SLOW = "tell me something that takes a while ".repeat(4);
export const COUNTED = Array.from({ length: 20 }, (_, n) => `${n + 1}`).join(" ");

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Have one of the two pods killed, that of this name or any, with SIGKILL, and return when it is dead. */
export async function killAPod(name = "") {
  console.log(`kill ${name}`);
  const { value } = await answers.next();
  check(value?.trim() === "killed", value);
}

/** Return when both pods serve: the one that was killed takes a while to be back. */
export async function bothServe() {
  console.log("wait");
  const { value } = await answers.next();
  check(value?.trim() === "serving", value);
}

/** Fail a step that did not see what it should. */
export function check(holds, ...seen) {
  if (!holds) throw new Error(`not as it should be: ${JSON.stringify(seen)}`);
}

/** Report a step; one that fails does not keep the others from being tried. */
export async function step(name, work) {
  try {
    await work();
    console.log(`ok ${name}`);
  } catch (error) {
    console.error(error);
    console.log(`failed ${name}`);
  }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Eight requests at once, and a pod killed while they are answered: all must be answered all the same. */
export async function underAKill(ask) {
  const asked = Promise.all(Array.from({ length: 8 }, (_, number) => ask(number)));
  await pause(600);
  await killAPod();
  for (const answer of await asked) check(answer.startsWith("echo: tell me something"), answer);
}

/** Let the process end: the line to whoever kills pods is closed. */
export function done() {
  process.stdin.destroy();
}
