// Makes calls as a program does that was given another base URL and key, by its environment alone.
//
//   node calls.mjs anthropic|openai < calls.json
//
// Takes a list of {"method": "messages.create", "parameters": {...}} and prints a list of what came
// of each: {"seconds", "answer"}, a stream's answer being the list of its events, or
// {"seconds", "error"}.

import { text } from "node:stream/consumers";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const CLIENTS = { anthropic: Anthropic, openai: OpenAI };

function methodOf(client, path) {
  const names = path.split(".");
  const name = names.pop();
  const resource = names.reduce((holder, part) => holder[part], client);
  return resource[name].bind(resource);
}

async function wholeOf(answer, isStream) {
  if (!isStream) return answer;
  const events = [];
  for await (const event of answer) events.push(event);
  return events;
}

function toldBy(error) {
  return {
    name: error.constructor.name,
    status: error.status,
    type: error.type,
    code: error.errorCode ?? error.code, // Anthropic's name for it, and OpenAI's
    message: error.message,
  };
}

async function outcomeOf(client, { method, parameters }) {
  const call = methodOf(client, method);
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  try {
    const answer = await wholeOf(await call(parameters), parameters.stream);
    return { seconds: seconds(), answer };
  } catch (error) {
    if (error.status === undefined) throw error; // no answer of a server: the test itself is wrong
    return { seconds: seconds(), error: toldBy(error) };
  }
}

const client = new CLIENTS[process.argv[2]]();
const outcomes = [];
for (const call of JSON.parse(await text(process.stdin))) {
  outcomes.push(await outcomeOf(client, call));
}
console.log(JSON.stringify(outcomes));
