-- Take a call's money out of a slice that has enough, all or nothing.
-- KEYS: the slices of a scope set, the calls in flight on them.
-- ARGV: the call, its bound, what is kept of it, the time now in milliseconds.
-- Returns the slice; or {slice, rest, ...} of the slices that had too little and are taken out.
local slices = redis.call('HGETALL', KEYS[1])
local bound, now = tonumber(ARGV[2]), tonumber(ARGV[4])
for i = 1, #slices, 2 do
  local left = tonumber(slices[i + 1])
  if left >= bound and tonumber(string.match(slices[i], ':(%d+)$')) > now then
    if left > bound then
      redis.call('HINCRBY', KEYS[1], slices[i], -ARGV[2])
    else
      redis.call('HDEL', KEYS[1], slices[i])
    end
    redis.call('HSET', KEYS[2], ARGV[1], slices[i] .. ' ' .. ARGV[3])
    return slices[i]
  end
end
if #slices > 0 then
  redis.call('DEL', KEYS[1])
end
return slices
