-- POSTs the lines of a file in turn, each as one request's body. Its arguments: the file, then a header and its value,
-- as often as it takes. The figures come on the last line, as JSON; times are in µs.
local requests, place = {}, 0

function init(arguments)
  wrk.headers["Content-Type"] = "application/json"
  for index = 2, #arguments - 1, 2 do
    wrk.headers[arguments[index]] = arguments[index + 1]
  end
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, nil, body)
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %.0f, "p99": %.0f, "max": %.0f}\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
