// HTTP requests. A response to an action means that it has been saved.

import { language, t } from "./i18n.js";

export class RequestError extends Error {
  constructor(status, body) {
    super(body?.error ? t(body.error) : t("The server responded with status {status}.", { status }));
    this.status = status;
    this.body = body;
  }
}

async function request(path, options) {
  let response;
  try {
    const headers = { "Accept-Language": language, ...options.headers };
    response = await fetch(path, { credentials: "same-origin", ...options, headers });
  } catch {
    throw new RequestError(0, {
      error: t("finetune annotate has stopped. Start it again, and this page goes on."),
    });
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new RequestError(response.status, body);
  return body;
}

export const get = (path, options = {}) => request(path, options);

export const post = (path, body) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

export const imageOf = (id, kind) => `/photo/${id}/${kind}`;
