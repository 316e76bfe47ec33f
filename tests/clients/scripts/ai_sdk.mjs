// The AI SDK: its OpenAI provider over Responses, and its provider for compatible servers over Chat Completions.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { check, COUNTED, done, SLOW, step, underAKill, URL } from "./session.mjs";

const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: "x" });
const compatible = createOpenAICompatible({ name: "agentrt", baseURL: `${URL}/v1`, apiKey: "x" });
const weather = tool({
  description: "The weather in a city.",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
  execute: ({ city }) => `sunny in ${city}`,
});

async function surface(over, model) {
  await step(`${over}server tools`, async () => {
    const { text } = await generateText({ model: model("support"), prompt: "look up order A1" });
    check(text.startsWith("Done, get_order says:"), text);
  });
  await step(`${over}streaming`, async () => {
    const result = streamText({ model: model("support"), prompt: "count to 20" });
    const parts = [];
    for await (const part of result.textStream) parts.push(part);
    check(parts.length >= 20 && parts.join("").trim() === COUNTED, parts);
  });
  await step(`${over}client tools`, async () => {
    const { text, steps } = await generateText({
      model: model("caller"), prompt: "Rome", tools: { weather }, stopWhen: stepCountIs(3),
    });
    check(steps.length === 2 && text === "They said: sunny in Rome", text, steps.length);
  });
  await step(`${over}a pod is killed, answers come`, () =>
    underAKill(async (number) => {
      return (await generateText({ model: model("slow"), prompt: `${SLOW}${number}`, maxRetries: 4 })).text;
    }),
  );
}

await surface("", (name) => openai.responses(name));
await step("failed server tools", async () => {
  const { text, toolResults } = await generateText({
    model: openai.responses("endless"), prompt: "go", providerOptions: { openai: { maxToolCalls: 1 } },
  });
  check(text === "no calls are left" && toolResults.length > 1, text, toolResults.length);
});
await step("conversation", async () => {
  const first = await generateText({ model: openai.responses("support"), prompt: "my name is Ada" });
  const { responseId } = first.providerMetadata.openai;
  const asked = await generateText({
    model: openai.responses("support"), prompt: "what is my name",
    providerOptions: { openai: { previousResponseId: responseId } },
  });
  check(asked.text === "Your name is Ada.", asked.text);
});
await step("whole history", async () => {
  const messages = [{ role: "user", content: "my name is Ada" }];
  const first = await generateText({ model: openai.responses("support"), messages });
  messages.push(...first.response.messages, { role: "user", content: "what is my name" });
  const asked = await generateText({
    model: openai.responses("support"), messages, providerOptions: { openai: { store: false } },
  });
  check(asked.text === "Your name is Ada.", asked.text);
});
await step("left in the middle", async () => {
  const leaving = new AbortController();
  const result = streamText({ model: openai.responses("slow"), prompt: SLOW, abortSignal: leaving.signal });
  let parts = 0;
  for await (const _ of result.textStream) if ((parts += 1) === 3) leaving.abort();
  check(parts >= 3 && parts < 20, parts);
});
await surface("chat, ", (name) => compatible(name));
done();
