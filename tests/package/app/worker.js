import { makeCalls } from "./calls.js";

onmessage = async ({ data: url }) => postMessage(await makeCalls({ url }).catch(String));
