// Shows the operations of openapi.json, each with a form that sends it. Everything from outside becomes text, never markup.
"use strict";

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

async function csrf(root) {
  const answer = await fetch(root + "/");
  const said = answer.ok ? await answer.json() : {};
  return said["csrf-header"] ? { [said["csrf-header"]]: said["csrf-token"] } : {};
}

function form(root, path, method, operation) {
  const fields = (operation.parameters ?? []).map((parameter) => {
    const input = make("input", { required: parameter.required, placeholder: parameter.schema?.default ?? "" });
    return { parameter, input };
  });
  const [type] = Object.keys(operation.requestBody?.content ?? {});
  const body = type && make("textarea", { rows: 5, placeholder: type });
  const output = make("pre", { hidden: true });
  const send = async (event) => {
    event.preventDefault();
    let url = root + path;
    const query = new URLSearchParams();
    for (const { parameter, input } of fields) {
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.append(parameter.name, input.value);
    }
    const headers = method === "get" ? {} : await csrf(root);
    if (body) headers["Content-Type"] = type;
    const answer = await fetch(query.size ? `${url}?${query}` : url, {
      method: method.toUpperCase(), headers, body: body?.value || undefined,
    });
    const names = ["content-type", "location", "link", "retry-after"].filter((name) => answer.headers.get(name));
    const head = names.map((name) => `${name}: ${answer.headers.get(name)}`);
    output.textContent = [`${answer.status} ${answer.statusText}`, ...head, "", await answer.text()].join("\n");
    output.hidden = false;
  };
  const labels = fields.map(({ parameter, input }) => make("label", {}, make("span", { textContent: parameter.name }), input));
  return make("form", { onsubmit: send }, ...labels, ...(body ? [body] : []), make("button", { textContent: "Send" }), output);
}

async function show() {
  const api = await (await fetch("openapi.json")).json();
  const root = api.servers[0].url;
  const place = document.getElementById("operations");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const title = [make("b", { textContent: method.toUpperCase() }), make("code", { textContent: path }), operation.summary];
      const text = make("p", { textContent: operation.description ?? "" });
      place.append(make("details", {}, make("summary", {}, ...title), text, form(root, path, method, operation)));
    }
  }
}

show();
