-- For wrk: each request has an X-Request-ID of its own, as behind a tracing proxy.

local REQUESTS = 1000
local requests = {}
local sent = 0

init = function()
    for number = 1, REQUESTS do
        wrk.headers["X-Request-ID"] = string.format("%032x", number)
        requests[number] = wrk.format()
    end
end

request = function()
    sent = sent % REQUESTS + 1
    return requests[sent]
end
