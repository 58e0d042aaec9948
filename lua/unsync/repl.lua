--- repl: reads lines, runs each as a task, shows what came of it. It is the root task of the program.
---
--- What runs is a task of its own, so that Ctrl-C has something to cancel, and so that it may wait: other tasks go on
--- meanwhile, as they do while a line is typed. `host` is what the program lends (host/repl.c): the editor, the files.
local unsync = require("unsync")
local session = require("unsync.repl.session")
local show = require("unsync.repl.show")
local commands = require("unsync.repl.commands")

---@class unsync.repl.Repl
local Repl = {}
Repl.__index = Repl

--- Writes a line to stdout.
function Repl:say(text) io.stdout:write(text, "\n") end

--- `value` as it is shown.
function Repl:text_of(value)
  return show.value(value, { color = self.color, width = self.host.width() - 1 })
end

-- ---- errors ----

--- The traceback where it says more than the message does, as far as it is the user's; else nil.
local function useful(traceback, message)
  local lines, frames = {}, 0
  for line in traceback:gmatch("[^\n]+") do
    if not line:find("unsync/repl", 1, true) then
      lines[#lines + 1] = line:gsub("in field 'run'", "in the line")
      if line:find("^%s") and not line:find("^%s+%[C%]") then frames = frames + 1 end
    end
  end
  if frames == 0 or frames == 1 and message:find("^[^\n]*:%d+: ") then return nil end
  return table.concat(lines, "\n")
end

--- Tells an error on stderr: its text, and where it came from.
function Repl:tell(err, traceback)
  self.failed = true
  local text = show.error_text(err)
  if type(err) ~= "string" and not text then text = "error: " .. self:text_of(err) end
  local explain = require("unsync.explain")
  io.stdout:flush()
  io.stderr:write(explain(text, traceback and useful(traceback, text), nil, nil, self.color, self.host.distance), "\n")
end

-- ---- what is shown ----

--- A future that is shown before it has settled tells when it does.
function Repl:announce(value)
  if not unsync.is_future(value) or value:done() or self.announced[value] then return end
  self.announced[value] = true
  self.host.watch(value, function(future)
    self.announced[future] = nil
    self:say(self:text_of(future))
  end)
end

--- Shows the values of a line.
function Repl:show(values)
  if values.n == 0 then return end
  self.session:set("_", values[1])
  local texts, lines = {}, false
  for i = 1, values.n do
    texts[i] = self:text_of(values[i])
    lines = lines or texts[i]:find("\n", 1, true)
  end
  self.host.fresh()
  self:say(table.concat(texts, lines and "\n" or "\t"))
  if self.interactive then
    for i = 1, values.n do self:announce(values[i]) end
  end
end

-- ---- running ----

--- Runs `body` as the task that Ctrl-C cancels; true if it ended well, and its first result. It is given `argument`, or
--- a function to say what line runs.
function Repl:guard(body, argument)
  local traceback, line
  local function on_error(err)
    if line then self.session:keep_failed(line) end
    traceback = self.host.traceback(err)
    return err
  end
  self.host.begin()
  local task = unsync.spawn(function()
    self.running = unsync.current()
    self.host.foreground(self.running) -- from its first instruction on: it may never come to wait
    return xpcall(body, on_error, argument or function(running) line = running end)
  end)
  local outcome = table.pack(pcall(task.await, task))
  self.host.foreground(nil)
  self.running = nil
  local fine, err = outcome[1] and outcome[2], outcome[2]
  if outcome[1] then err = outcome[3] end
  if self.host.terminated() then error(not fine and err or "terminated", 0) end
  if fine then return true, err end
  if self.host.was_interrupted() then
    self.failed = true
    io.stdout:flush()
    io.stderr:write(self.interactive and "\n" or "", show.paint(self.color, "bad", "interrupted"), "\n")
  else
    self:tell(err, traceback)
  end
  return false
end

--- Runs `text`, and shows its values; false, where more lines would make it whole.
---@param options? {chunk: string?, before: function?, after: function?}
function Repl:run(text, options)
  options = options or {}
  local own, line_number = self.session.chunk, self.session.line
  if options.chunk then self.session.chunk, self.session.line = options.chunk, 1 end
  local line, problem = self.session:compile(text)
  if options.chunk then self.session.chunk, self.session.line = own, line_number end
  if not line then
    if not options.chunk then self.session:skip(text) end
    return self:tell(problem)
  end
  return self:guard(function(set_line)
    set_line(line)
    if options.before then options.before() end
    local values = table.pack(line.run(table.unpack(self.arguments)))
    local note = options.after and options.after()
    self:show(values)
    if note then self:say(note) end
  end)
end

--- One of the things that the command line asked for before the session.
function Repl:step(step)
  if step.kind == "require" then
    local name, module = step.text:match("^([^=]*)=(.*)$")
    local fine, loaded = self:guard(require, module or step.text) -- by nobody's line
    if fine then _G[name or step.text] = loaded end
    return
  end
  self:guard(function()
    if step.kind == "code" then
      assert(load(step.text, step.name or "=(command line)"))()
    else
      local chunk, problem = loadfile(step.text)
      if not chunk then error(problem, 0) end
      chunk(table.unpack(self.arguments))
    end
  end)
end

-- ---- the session ----

local function prompt(name, default)
  local own = rawget(_G, name)
  if own == nil then return default end
  local fine, text = pcall(tostring, own)
  return fine and text or default
end

--- Reads a line, and those that make it whole; nil at the end of input.
function Repl:read()
  local text
  while true do
    local line, why = self.host.read(prompt(text and "_PROMPT2" or "_PROMPT", text and ">> " or "> ")):await()
    if line and not self.interactive and not self.begun then
      self.begun = true -- as of any script: what is before its first line, and a line for the shell
      line = line:gsub("^\u{FEFF}", ""):gsub("^#!.*", "")
    end
    if line then
      text = text and text .. "\n" .. line or line:gsub("^=", "")
      if not text:find("\n", 1, true) and commands.parse(text) then return text end
      if not select(3, self.session:check(text)) then return text end
    elseif why == "interrupted" then
      text = nil
    elseif text then -- the end, in the middle of something
      local _, problem = self.session:check(text)
      self.session:skip(text)
      self:tell(problem)
      if not self.interactive then return nil end
      text = nil
    else
      return nil, why
    end
  end
end

--- Runs one entry, Lua or a command.
function Repl:enter(text)
  local name, rest = commands.parse(text)
  if not name then return self:run(text) end
  local line_number = self.session.line
  local fine, problem = pcall(commands.run, self, name, rest)
  self.session.line = line_number -- whatever the command has compiled, it is one line
  self.session:skip(text)
  if not fine then self:tell(problem) end
end

--- Ends what still runs, and says so.
function Repl:leave(code)
  local list = {}
  for _, task in ipairs(commands.others(self)) do
    if not task.future:done() then list[#list + 1] = commands.describe(task) end
  end
  if #list > 0 then self:say("cancelled: " .. table.concat(list, "\n           ")) end
  self.host.leave(code)
end

local function set_up_completion(self)
  local complete
  self.host.complete(function(text)
    complete = complete or require("unsync.repl.complete")
    local start, found = complete.candidates(self.session, self.host, commands.names, text)
    return start, complete.common(found), found
  end)
end

---@param host table  what host/repl.c lends
---@return nil
return function(host)
  local self = setmetatable({
    host = host, session = session.new(), interactive = host.interactive, color = host.color, failed = false,
    announced = setmetatable({}, { __mode = "k" }), arguments = host.arguments, root = unsync.current(),
  }, Repl)
  for _, step in ipairs(host.steps) do self:step(step) end
  local past
  if self.interactive then
    past = require("unsync.repl.history").open(host)
    host.remember(past.entries)
    set_up_completion(self)
    self:say(host.banner)
  end
  while true do
    local text, why = self:read()
    if not text then
      if not self.interactive then break end
      return self:leave(why == "interrupted twice" and 130 or nil)
    end
    if past and past:add(text) then host.remember({ text }) end
    self:enter(text)
    if self.leaving then return self:leave(self.leaving.code or (not self.interactive and self.failed and 1) or nil) end
  end
  if self.failed then host.fail() end
end
