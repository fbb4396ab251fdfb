/** What a scripted model says, as the two agents of test/support/caches.ts read it. */

/** OpenAI Responses, streamed: one call of Codex's shell tool, or a last word. */
export function responses(command: string | undefined): string[] {
  const id = `resp_${Math.random()}`
  const item =
    command === undefined
      ? {
          type: 'message',
          role: 'assistant',
          id: 'msg_1',
          content: [{ type: 'output_text', text: 'all done' }],
        }
      : {
          type: 'function_call',
          id: 'fc_1',
          call_id: `call_${id}`,
          name: 'exec_command',
          arguments: JSON.stringify({ cmd: command, login: false, yield_time_ms: 20_000 }),
        }
  const usage = {
    input_tokens: 1,
    input_tokens_details: null,
    output_tokens: 1,
    output_tokens_details: null,
    total_tokens: 2,
  }
  return [
    { type: 'response.created', response: { id } },
    { type: 'response.output_item.added', output_index: 0, item },
    { type: 'response.output_item.done', output_index: 0, item },
    { type: 'response.completed', response: { id, usage } },
  ].map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
}

/** Chat Completions, streamed: one call of pi's bash tool, or a last word. */
export function completion(command: string | undefined): string[] {
  const call = {
    index: 0,
    id: `call_${Math.random()}`,
    type: 'function',
    function: { name: 'bash', arguments: JSON.stringify({ command }) },
  }
  const delta =
    command === undefined
      ? { role: 'assistant', content: 'all done' }
      : { role: 'assistant', tool_calls: [call] }
  const finish = command === undefined ? 'stop' : 'tool_calls'
  const chunk = (choice: object): string =>
    `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'scripted', choices: [{ index: 0, ...choice }] })}\n\n`
  return [
    chunk({ delta, finish_reason: null }),
    chunk({ delta: {}, finish_reason: finish }),
    'data: [DONE]\n\n',
  ]
}

/** Arguments of Codex CLI that make it ask the model at `host`, whose key is in MODEL_KEY, to do `task`. */
export function codexArguments(host: string, task: string): string[] {
  const provider = `{name="test",base_url="https://${host}/v1",env_key="MODEL_KEY",wire_api="responses",request_max_retries=0,stream_max_retries=0}`
  const options = ['model_provider=test', `model_providers.test=${provider}`].flatMap((one) => ['-c', one])
  return ['exec', '--skip-git-repo-check', '--disable', 'plugins', ...options, '-m', 'scripted', task]
}
