// Messages of google-protobuf, which several clients share.

export function toAsk(Ask, { number, payload }) {
  const ask = new Ask();
  ask.setNumber(number);
  ask.setPayload(payload);
  return ask;
}

export const fromAnswer = (answer) => ({ number: answer.getNumber(), payload: answer.getPayload_asU8() });
