"""Schedules that once went wrong, made small: what they showed, seed, machines, steps."""

from __future__ import annotations

FOUND: tuple[tuple[str, int, int, str], ...] = (
    (
        "a cursor passed over a run that was applied but not durable, and the machine went down",
        481,
        1,
        "new writer 2082723362, log 958843486, new writer 2744836036, turn 2456596192, start agent 2679058314,"
        "turn 729533281, agent turns 2213569743, kill agent 3218916552, start agent 3498148855,"
        "agent tick 3299480738, reboot 3812135803",
    ),
    (
        "a replay took events out of a living ring, and the agent counted them again",
        68,
        1,
        "new writer 3193518532, new writer 4078052210, turn 460780041, log 2054427921, new writer 705117951,"
        "replay 2744041856",
    ),
    (
        "last words went where the ring's rest belonged",
        368,
        1,
        "new writer 664986411, log 3289884822, turn 133074032, fill ring 3230951153, replay 3306597544, log 2198170115",
    ),
    (
        "a process that left right after a roll counted as lost",
        19,
        1,
        "new writer 4017538758, reboot 2042783979, new writer 1847311823, new writer 275578417, log 960516165,"
        "turn 433759704, log 1415656443, log 803496394, log 3093217404, new writer 142914245, roll 1072854090",
    ),
    (
        "a guest's lost tail was not told",
        9,
        1,
        "new writer 2168577841, start run 1570104299, log 952219616, turn 2189905982, reboot 2407173168",
    ),
    (
        "a run was settled and let go of while a batch of it was under way",
        74,
        2,
        "new writer 807552159, leave 2820709787, new writer 3458392800, start agent 514821558, new writer 4204434381,"
        "end run 799079103, kill writer 350197818, roll 3988368563, start run 3527652044, log 1912477475,"
        "log 4029789560",
    ),
    (
        "an agent left with applied checkpoints alone, and its run went to another host and came back",
        201173,
        2,
        "start agent 3542019666, new writer 2210412108, log 3351368007, turn 2133178067, "
        "agent tick 2622115691, new writer 2987331774, stop agent 3015425805, log 2040688621, "
        "new writer 1250362389, new writer 3854402992, start agent 948033638, new writer 810303306",
    ),
    (
        "a run that had come back with less was settled",
        201977,
        2,
        "start agent 204934936, new writer 3032463176, new writer 4269330602, start run 4271117100, "
        "log 1062692267, start run 592800694, log 4173995152, log 2709045790, log 508512384, "
        "log 1579096361, roll 4072984789, start agent 2127079386, log 3524293396, roll 1482334869, "
        "agent rescan 3720104580, new writer 3792072502, new writer 274361648, log 2530036014, "
        "log 60693156, stop agent 402225829",
    ),
    (
        "a position inside a frame: what its first part defined was not known in the second",
        1589796547,
        1,
        "new writer 3719385526, turn 1590623197, log 2097448170, replay 1587409515, "
        "new writer 3918574849, log 4250200489, roll 261425253, start agent 1321495419, "
        "agent turns 79900598, agent tick 1605146212, reboot 3051490158",
    ),
    (
        "a killed batch left a tag's value, and the next event of another stream said what was known before",
        604384740,
        1,
        "new writer 2970235754, turn 3022905980, new writer 405894021, replay 3575529976, "
        "turn 1055626400, start agent 939374315, kill agent 2020506762, log 2918451841, "
        "new writer 1695856204",
    ),
    (
        "a run was settled between an agent's word to go back for it and its going back",
        209518043,
        2,
        "new writer 2239371768, log 1330795069, turn 3464703312, start agent 3925806141, kill writer 2384471125,"
        "new writer 3391448569, start agent 3132730205, fill ring 2435006024, stop agent 4129713254, turn 3740379330,"
        "kill agent 2968634006, start agent 4253066045",
    ),
    (
        "a run that one process started twice and ended twice was never over",
        485010782,
        1,
        "new writer 737943034, start run 2802928560, end run 2514569112, end run 509965105",
    ),
    (
        "an agent that stood still in the middle of a batch put an old tag over a newer one",
        1377507497,
        2,
        "start agent 535510978, new writer 3430410611, log 2836653852, log 3746343981, turn 4258470324,"
        "agent tick 2483758712, log 2364255702, turn 3139617415, take over 2549264203",
    ),
    (
        "a batch made before a replay took over the run was applied behind it, and counted twice",
        721397430,
        1,
        "turn 3008665699, turn 1322248955, settle 2170956152, start run 347606100, turn 4092040821,"
        "take over 1162232834, agent turns 201225006, new writer 2090578453, new writer 1234141151,"
        "agent turns 1826569966, log 2587062137, settle 646821188, agent turns 124200851,"
        "kill writer 3256422580, start run 51449869, turn 971698707, agent rescan 3454795628,"
        "log 2216738780, turn 3037579065, save cursors 865144087, start agent 1610813210, turn 4032681142,"
        "agent rescan 2849565203, replay 2540259359, new writer 3364178447, turn 924127758, turn 800570315,"
        "log 1686272360, agent tick 2224256598, pass time 1241426766",
    ),
    (
        "an agent's checkpoint counted again, though another machine's had put older values over what it knew and died",
        58836470,
        2,
        "start agent 1158964960, new writer 3952756187, log 4076110813, new writer 3040387178, log 4251616799,"
        "start run 1953910772, kill writer 92746901, log 826974471, log 2955263474, turn 2877680228,"
        "agent tick 723916368, stop agent 1455373794, take over 3687288937",
    ),
    (
        "an agent that had lost a run and had it again gave an artifact the name that a newer one had by then",
        830803268,
        2,
        "new writer 3238471623, log 2416550429, turn 3434542038, log 3373154040, start agent 1734068574,"
        "agent turns 3668701441, agent turns 3762177745, turn 2126601748, take over 3710679789",
    ),
    (
        "an agent stood still between asking whether a run was its own and giving an artifact its name",
        440935073,
        2,
        "new writer 2701794993, log 2964400675, turn 495584088, start agent 1908146300, agent turns 1250752363,"
        "log 2058657122, turn 688496649, take over 2293919287",
    ),
    (
        "an agent that found a run taken from it kept what it knew, and wrote that as a checkpoint all the same",
        822358514,
        2,
        "new writer 1979656889, turn 4115519889, replay 2136182080, log 2385243115, roll 639817881, log 780516613,"
        "end run 731443265, start agent 933727069, log 1312593755, start run 46580326, turn 741387526,"
        "settle 1545382120, take over 2401338197",
    ),
    (
        "a run let go of and taken again counted from where another agent had seen it stand, and was taken for left",
        584393978,
        2,
        "start agent 735135275, new writer 2194639171, agent tick 4103632714, turn 2349981451,"
        "start agent 1273057861, log 387610980, new writer 862294601, new writer 2874408614, turn 106156491,"
        "agent turns 2730506492, agent tick 2144764137, take over 963339848",
    ),
)
