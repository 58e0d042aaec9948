--- HTTP and HTTPS requests, any number at once: each call starts one and returns its future at once.
--- An answer with any status is an answer. A request fails where no whole answer came: with an error whose `code` is a
--- system call's own name (`ECONNREFUSED`, `ECONNRESET`), `ENOTFOUND` (no such host), `timeout`, `tls` (no trust, no
--- common ground), `EOF` (the answer broke off), `redirects` (too many), `limit` (`max_body`, or more than 256 KiB of
--- headers) or `EPROTO` (no HTTP); and with `method`, `url`, and `address` where there was one.
require("unsync") -- the methods of futures
local core = require("unsync.core.http")

local http = {}

---@class unsync.HttpOptions
---@field method? string  default: GET, or POST where there is a body
---@field headers? table<string, string|number|string[]>  a list of values is sent as so many headers
---@field body? string  sent as it is
---@field form? table<string, string|number|boolean|(string|number|boolean)[]>  a body of form fields, URL-encoded
---@field query? table<string, string|number|boolean|(string|number|boolean)[]>  appended to the URL
---@field timeout? number  seconds from the call to the last byte of the body; default: none
---@field connect_timeout? number  seconds to connect in, once its turn has come; default: 30
---@field redirects? boolean|integer  whether they are followed, or how many; default: true, which is 10
---@field verify? boolean  whether the server must prove who it is; default: true
---@field ca_file? string  a PEM file of authorities to trust instead of the system's
---@field proxy? string  its URL; "" is none; default: what the environment says (http_proxy and the like)
---@field compressed? boolean  whether to ask for a compressed body, which is unpacked; default: true
---@field max_body? integer  bytes, unpacked; a body that turns out longer fails the request with `limit`; default: none

---@class unsync.HttpRequest: unsync.HttpOptions
---@field url string

---@class unsync.HttpResponse
---@field status integer
---@field reason string?  the status in words, where the server sent any
---@field headers table<string, string>  looked up in any spelling; the values of a repeated one joined by ", "
---@field header_list string[][]  {name, value} of each header, as they came
---@field body string
---@field url string  the one that answered, after redirects; without user and password
---@field redirects integer  how many were followed
---@field elapsed number  seconds from when its turn came to the last byte

--- The class of `response.headers`: keys are in lower case, and looked up in any.
http.Headers = core.Headers
http.Headers.__name = "unsync.http.Headers"
http.Headers.__index = function(headers, name)
  if type(name) ~= "string" then return nil end
  return rawget(headers, name:lower())
end

local token = "^[%w!#$%%&'*+.^_`|~-]+$"

local option_types = {
  url = "string", method = "string", headers = "table", body = "string", form = "table", query = "table",
  timeout = "number", connect_timeout = "number", redirects = "boolean or integer", verify = "boolean",
  ca_file = "string", proxy = "string", compressed = "boolean", max_body = "integer",
}

--- What libcurl is given as a C string, which a zero would cut off.
local c_strings = {url = true, ca_file = true, proxy = true}

local function bad(name, caller, problem, level)
  error(("bad argument '%s' to 'http.%s' (%s)"):format(name, caller, problem), level + 1)
end

local function is_a(value, wanted)
  local kind = type(value)
  if wanted == "integer" then return math.type(value) == "integer" end
  if wanted == "boolean or integer" then return kind == "boolean" or math.type(value) == "integer" end
  return kind == wanted
end

local function escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

--- Fields as `a=1&b=2`, in the order of their names.
local function encode(fields, name, caller, level)
  local names, parts = {}, {}
  for key in pairs(fields) do
    if type(key) ~= "string" then bad(name, caller, "a key is a " .. type(key) .. ", not a string", level + 1) end
    names[#names + 1] = key
  end
  table.sort(names)
  for _, key in ipairs(names) do
    local values = fields[key]
    for _, value in ipairs(type(values) == "table" and values or {values}) do
      local kind = type(value)
      if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
        bad(("%s.%s"):format(name, key), caller, "string, number or boolean expected, got " .. kind, level + 1)
      end
      parts[#parts + 1] = escape(key) .. "=" .. escape(value)
    end
  end
  return table.concat(parts, "&")
end

--- The lines of the header table, and the set of names in it, in lower case.
local function header_lines(headers, caller, level)
  local lines, seen = {}, {}
  for name, values in pairs(headers) do
    if type(name) ~= "string" or not name:find(token) then
      bad("headers", caller, ("%q is no header name"):format(tostring(name)), level + 1)
    end
    seen[name:lower()] = true
    for _, value in ipairs(type(values) == "table" and values or {values}) do
      if type(value) ~= "string" and type(value) ~= "number" then
        bad(("headers[%q]"):format(name), caller, "string or number expected, got " .. type(value), level + 1)
      end
      value = tostring(value)
      if value:find("[\r\n\0]") then bad(("headers[%q]"):format(name), caller, "a line break in a value", level + 1) end
      -- libcurl takes "Name:" as the wish to leave the header out, and "Name;" as the header without a value.
      lines[#lines + 1] = value == "" and name .. ";" or name .. ": " .. value
    end
  end
  return lines, seen
end

local function positive(options, name, caller, level)
  local seconds = options[name]
  if seconds == nil then return nil end
  if seconds <= 0 or seconds ~= seconds then bad(name, caller, "more than 0 seconds expected", level + 1) end
  return seconds < math.huge and seconds or nil
end

local function check_options(options, caller, level)
  for name, value in pairs(options) do
    local wanted = option_types[name]
    if wanted == nil then bad(tostring(name), caller, "no such option", level + 1) end
    if not is_a(value, wanted) then bad(name, caller, wanted .. " expected, got " .. type(value), level + 1) end
    if c_strings[name] and value:find("\0", 1, true) then bad(name, caller, "a zero byte", level + 1) end
  end
  if options.body and options.form then bad("form", caller, "there is a body already", level + 1) end
end

local function with_query(url, query)
  if query == "" then return url end
  local before, fragment = url:match("^([^#]*)(.*)$")
  return before .. (before:find("?", 1, true) and "&" or "?") .. query .. fragment
end

--- Starts the request that `options` describe; `level` is who is to blame for a bad argument, counted from here; our
--- own callers are not: they call us in their last act.
local function start(url, method, options, caller, level)
  check_options(options, caller, level + 1)
  url = url or options.url
  if type(url) ~= "string" then bad("url", caller, "string expected, got " .. type(url), level + 1) end
  if url:find("\0", 1, true) then bad("url", caller, "a zero byte", level + 1) end
  local body = options.body
  local lines, seen = header_lines(options.headers or {}, caller, level + 1)
  if options.form then
    body = encode(options.form, "form", caller, level + 1)
  elseif not seen["content-type"] then
    lines[#lines + 1] = "Content-Type:" -- libcurl would call any body form fields
  end
  if not seen["user-agent"] then lines[#lines + 1] = "User-Agent: unsync" end
  -- A server that does not know it would be waited for, a second long.
  if not seen["expect"] then lines[#lines + 1] = "Expect:" end
  method = method or options.method or (body and "POST" or "GET")
  if not method:find(token) then bad("method", caller, ("%q is no method"):format(method), level + 1) end
  local redirects = options.redirects
  if redirects == nil or redirects == true then redirects = 10 end
  if redirects and redirects < 0 then bad("redirects", caller, "0 or more expected", level + 1) end
  if options.max_body and options.max_body < 0 then bad("max_body", caller, "0 or more expected", level + 1) end
  local future, problem = core.request({
    url = options.query and with_query(url, encode(options.query, "query", caller, level + 1)) or url,
    method = method,
    headers = lines,
    body = body,
    timeout = positive(options, "timeout", caller, level + 1),
    connect_timeout = options.connect_timeout and positive(options, "connect_timeout", caller, level + 1) or 30,
    max_redirects = redirects or 0,
    verify = options.verify ~= false,
    ca_file = options.ca_file,
    proxy = options.proxy,
    compressed = options.compressed ~= false,
    max_body = options.max_body,
  })
  if not future then bad("url", caller, problem, level + 1) end
  return future
end

local function checked_options(options, caller)
  if options == nil then return {} end
  if type(options) ~= "table" then bad("options", caller, "table expected, got " .. type(options), 3) end
  for _, name in ipairs({"url", "method"}) do
    if options[name] ~= nil then bad(name, caller, "no such option here", 3) end
  end
  return options
end

local function without_body(method, caller)
  return function(url, options)
    options = checked_options(options, caller)
    if type(url) ~= "string" then bad("url", caller, "string expected, got " .. type(url), 2) end
    return start(url, method, options, caller, 1)
  end
end

local function with_body(method, caller)
  return function(url, body, options)
    options = checked_options(options, caller)
    if type(url) ~= "string" then bad("url", caller, "string expected, got " .. type(url), 2) end
    if body ~= nil then
      if type(body) ~= "string" then bad("body", caller, "string expected, got " .. type(body), 2) end
      if options.body or options.form then bad("body", caller, "there is one in the options too", 2) end
      local own = {body = body}
      for name, value in pairs(options) do own[name] = value end
      options = own
    end
    return start(url, method, options, caller, 1)
  end
end

---@param request unsync.HttpRequest
---@return unsync.Future response  of an unsync.HttpResponse; never suspends
function http.request(request)
  if type(request) ~= "table" then bad("request", "request", "table expected, got " .. type(request), 2) end
  return start(nil, nil, request, "request", 1)
end

---@type fun(url: string, options?: unsync.HttpOptions): unsync.Future
http.get = without_body("GET", "get")

---@type fun(url: string, options?: unsync.HttpOptions): unsync.Future
http.head = without_body("HEAD", "head")

---@type fun(url: string, options?: unsync.HttpOptions): unsync.Future
http.delete = without_body("DELETE", "delete")

---@type fun(url: string, body?: string, options?: unsync.HttpOptions): unsync.Future
http.post = with_body("POST", "post")

---@type fun(url: string, body?: string, options?: unsync.HttpOptions): unsync.Future
http.put = with_body("PUT", "put")

---@type fun(url: string, body?: string, options?: unsync.HttpOptions): unsync.Future
http.patch = with_body("PATCH", "patch")

return http
