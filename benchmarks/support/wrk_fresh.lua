-- As wrk.lua, but each request has a field that no other one has. A file of its own: where there is a function for it,
-- wrk asks it for every request, and that would slow down the other loads.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "wrk.lua")

local count = 0

function request()
  count = count + 1
  wrk.headers["X-Request-Id"] = string.format("%012d", count)
  return wrk.format()
end
