// openai-node: Responses, Conversations, Chat Completions.

import OpenAI from "openai";
import { bothServe, check, COUNTED, done, killAPod, SLOW, step, underAKill, URL } from "./session.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "x" });
const WEATHER = { name: "weather", parameters: { type: "object", properties: {} } };
const TOOLS = [{ type: "function", strict: false, ...WEATHER }];
const CHAT_TOOLS = [{ type: "function", function: WEATHER }];
const words = (text) => text.trim().split(/\s+/).join(" ");

await step("server tools", async () => {
  const made = await client.responses.create({ model: "support", input: "look up order A1" });
  check(made.output.map((item) => item.type).join() === "mcp_call,message", made);
  check(made.output_text.startsWith("Done, get_order says:"), made.output_text);
});
await step("streaming", async () => {
  const stream = client.responses.stream({ model: "support", input: "count to 20" });
  let events = 0;
  for await (const _ of stream) events += 1;
  check(events > 20 && words((await stream.finalResponse()).output_text) === COUNTED, events);
});
await step("conversation", async () => {
  const conversation = await client.conversations.create();
  await client.responses.create({ model: "support", input: "my name is Ada", conversation: conversation.id });
  const asked = await client.responses.create({
    model: "support", input: "what is my name", conversation: conversation.id,
  });
  check(asked.output_text === "Your name is Ada.", asked.output_text);
  const chained = await client.responses.create({
    model: "support", input: "what is my name", previous_response_id: asked.id,
  });
  check(chained.output_text === "Your name is Ada.", chained.output_text);
  const items = [];
  for await (const item of client.conversations.items.list(conversation.id, { limit: 2 })) items.push(item);
  check(items.length === 6, items);
});
await step("client tools", async () => {
  const first = await client.responses.create({ model: "caller", input: "Rome", tools: TOOLS });
  const call = first.output.at(-1);
  const output = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const second = await client.responses.create({
    model: "caller", input: [output], tools: TOOLS, previous_response_id: first.id,
  });
  check(second.output_text === "They said: sunny", second.output_text);
});
await step("compaction", async () => {
  const first = await client.responses.create({ model: "support", input: "my name is Ada" });
  const short = await client.responses.compact({ model: "support", previous_response_id: first.id });
  const input = [...short.output, { role: "user", content: "count to 2" }];
  const asked = await client.responses.create({ model: "support", input });
  check(asked.output_text === "1 2 ", asked.output_text);
});
await step("cancel", async () => {
  const live = await client.responses.create({ model: "slow", input: SLOW.repeat(20), background: true });
  await client.responses.cancel(live.id);
  let last;
  for await (const event of await client.responses.retrieve(live.id, { stream: true })) last = event;
  check(last.response.status === "cancelled", last);
});
await step("chat", async () => {
  const messages = [{ role: "user", content: "look up order A1" }];
  const made = await client.chat.completions.create({ model: "support", messages });
  check(made.choices[0].message.content.startsWith("Done, get_order says:"), made);
});
await step("chat, streaming", async () => {
  const messages = [{ role: "user", content: "count to 20" }];
  const stream = client.chat.completions.stream({ model: "support", messages });
  check(words(await stream.finalContent()) === COUNTED);
});
await step("chat, client tools", async () => {
  const messages = [{ role: "user", content: "Rome" }];
  const first = await client.chat.completions.create({ model: "caller", messages, tools: CHAT_TOOLS });
  const said = first.choices[0].message;
  messages.push(said, { role: "tool", tool_call_id: said.tool_calls[0].id, content: "sunny" });
  const second = await client.chat.completions.create({ model: "caller", messages, tools: CHAT_TOOLS });
  check(second.choices[0].message.content === "They said: sunny", second);
});
await step("a pod is killed, answers come", () =>
  underAKill(async (number) => {
    return (await client.responses.create({ model: "slow", input: `${SLOW}${number}` })).output_text;
  }),
);
await step("a pod is killed, streams are resumed", async () => {
  await bothServe();
  const said = SLOW.repeat(3);
  const begin = async () => {
    const { data, response } = await client.responses.create({ model: "slow", input: said, stream: true }).withResponse();
    const events = data[Symbol.asyncIterator]();
    return { events, seen: [(await events.next()).value], pod: response.headers.get("x-agentrt-pod") };
  };
  const begun = await Promise.all(Array.from({ length: 8 }, begin));
  await killAPod(begun[0].pod); // connections that are kept may all be to one
  let cut = 0;
  for (const { events, seen } of begun) {
    let reading = events;
    while (seen.at(-1).type !== "response.completed") {
      try {
        for (let next = await reading.next(); !next.done; next = await reading.next()) seen.push(next.value);
      } catch (error) {
        console.error(`cut: ${error}`); // its connection went with the pod
      }
      if (seen.at(-1).type === "response.completed") break;
      cut += 1;
      const again = { stream: true, starting_after: seen.at(-1).sequence_number };
      reading = (await client.responses.retrieve(seen[0].response.id, again))[Symbol.asyncIterator]();
    }
    const numbers = seen.map((event) => event.sequence_number);
    check(numbers.every((number, at) => at === 0 || number > numbers[at - 1]), numbers);
    check(seen.at(-1).response.output.at(-1).content[0].text.trim() === `echo: ${said}`.trim());
  }
  check(cut > 0, "no stream was cut");
});
done();
